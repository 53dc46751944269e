"""One forward pass of training: a click, then the mask through the window in both directions, as the tracker does it.

The steps are those of ``methods.models.sam2.tracking``: the click gives a mask; a mask (the true one or the one the
click gave) prompts the tracker on the same frame and enters memory as a hard mask; then the window's frames follow to
its end, and from the prompt back to its start. In every step the decoder's raw candidates are recorded, because the
package replaces the mask of an object it takes for hidden, which would cut off the gradient.

Shape legend: K windows, M objects of a window, B = K * M, T frames, S side of the input, s of low-resolution masks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import interpolate

from toy.sam2.bank import Batch

_CERTAIN = 10.0
"""Logit of a hard mask; the memory encoder's sigmoid makes 0 or 1 of it."""


@dataclass(frozen=True, eq=False)
class Steps:
    """What the decoder said, R records: the click, then T - 1 tracked frames."""

    logits_RB3ss: torch.Tensor
    """The three candidates."""
    iou_RB3: torch.Tensor
    """Their predicted IoU."""
    score_RB: torch.Tensor
    """Logit of "the object is in sight"."""
    frames: tuple[int, ...]
    """Position of each record in the window."""


@dataclass
class _Records:
    outputs: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = field(default_factory=list)


@contextmanager
def _recording(network: Any) -> Iterator[_Records]:
    records = _Records()

    def record(_module: Any, _inputs: Any, outputs: Any) -> None:
        masks_B3ss, iou_B3, _, score_B1 = outputs
        records.outputs.append((masks_B3ss, iou_B3, score_B1[:, 0]))

    hook = network.sam_mask_decoder.register_forward_hook(record)
    try:
        yield records
    finally:
        hook.remove()


def unroll(network: Any, batch: Batch, own_mask_B: torch.Tensor, video_length: int) -> Steps:
    """Runs a batch.

    Args:
        network: ``SAM2Base`` in evaluation mode.
        batch: the windows.
        own_mask_B: bool; whether the mask of the click (where it has one) prompts the tracker, or the true mask.
        video_length: number of frames the network is told of, at least T: it scales the time between frames by it.
    """
    windows, length = batch.images_KT3SS.shape[:2]
    objects = batch.masks_TBSS.shape[1] // windows
    vision = _Vision(network, batch.images_KT3SS, objects)
    outputs: dict[str, dict[int, dict[str, Any]]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
    prompt, frames = batch.prompt, [batch.prompt]
    with _recording(network) as records:
        _, click, _, _ = network._track_step(
            frame_idx=prompt, is_init_cond_frame=True, **vision.of(prompt), mask_inputs=None, output_dict={},
            point_inputs={
                "point_coords": batch.click_B2[:, None],
                "point_labels": torch.ones(len(batch.click_B2), 1, dtype=torch.int32, device=batch.click_B2.device),
            },
            num_frames=video_length, track_in_reverse=False, prev_sam_mask_logits=None,
        )  # fmt: skip
        if length > 1:
            mask_BSS = _prompt_masks(batch, click[4].detach(), own_mask_B)
            outputs["cond_frame_outputs"][prompt] = _remember(network, vision, prompt, mask_BSS, video_length)
            # The decoder ran once more, for the object pointer of the mask; it has no mask of its own to be judged.
            records.outputs.pop()
        for position in [*range(prompt + 1, length), *range(prompt - 1, -1, -1)]:
            outputs["non_cond_frame_outputs"][position] = network.track_step(
                frame_idx=position, is_init_cond_frame=False, **vision.of(position), point_inputs=None,
                mask_inputs=None, output_dict=outputs, num_frames=video_length, track_in_reverse=position < prompt,
            )  # fmt: skip
            frames.append(position)
    logits, ious, scores = zip(*records.outputs, strict=True)
    return Steps(torch.stack(logits), torch.stack(ious), torch.stack(scores), tuple(frames))


class _Vision:
    """Features of all windows' frames, encoded in one pass and handed out by position."""

    def __init__(self, network: Any, images_KT3SS: torch.Tensor, objects: int) -> None:
        encoded = network.forward_image(images_KT3SS.flatten(0, 1))
        self._shape = images_KT3SS.shape[:2]
        self._objects = objects
        self._network = network
        # Position t of every window together, so that a step reads one block.
        self._levels = [
            level.unflatten(0, self._shape).transpose(0, 1).contiguous() for level in encoded["backbone_fpn"]
        ]
        self._positions = [position[: self._shape[0]] for position in encoded["vision_pos_enc"]]

    def of(self, position: int) -> dict[str, Any]:
        """What ``track_step`` takes of a frame."""
        encoded = {
            "backbone_fpn": [level[position].repeat_interleave(self._objects, dim=0) for level in self._levels],
            "vision_pos_enc": [code.repeat_interleave(self._objects, dim=0) for code in self._positions],
        }
        _, features, positions, sizes = self._network._prepare_backbone_features(encoded)
        return {"current_vision_feats": features, "current_vision_pos_embeds": positions, "feat_sizes": sizes}


def _prompt_masks(batch: Batch, click_B1SS: torch.Tensor, own_mask_B: torch.Tensor) -> torch.Tensor:
    """The mask that prompts the tracker, (B, S, S) bool."""
    own_BSS = click_B1SS[:, 0] > 0
    usable_B = own_mask_B & own_BSS.flatten(1).any(dim=1)
    return torch.where(usable_B[:, None, None], own_BSS, batch.masks_TBSS[batch.prompt])


def _remember(network: Any, vision: _Vision, prompt: int, mask_BSS: torch.Tensor, video_length: int) -> dict[str, Any]:
    """The memory of a mask prompt: from its low-resolution mask, hard, as the tracker and the package store it."""
    seen = vision.of(prompt)
    output: dict[str, Any] = network.track_step(
        frame_idx=prompt, is_init_cond_frame=True, **seen, point_inputs=None, mask_inputs=mask_BSS[:, None].float(),
        output_dict={}, num_frames=video_length, run_mem_encoder=False,
    )  # fmt: skip
    low_B1ss = output["pred_masks"]
    high_B1SS = interpolate(low_B1ss, size=mask_BSS.shape[-2:], mode="bilinear", align_corners=False)
    memory, positions = network._encode_new_memory(
        current_vision_feats=seen["current_vision_feats"],
        feat_sizes=seen["feat_sizes"],
        pred_masks_high_res=torch.where(high_B1SS > 0, _CERTAIN, -_CERTAIN),
        object_score_logits=output["object_score_logits"],
        is_mask_from_pts=True,
    )
    return {"maskmem_features": memory, "maskmem_pos_enc": positions, "obj_ptr": output["obj_ptr"]}
