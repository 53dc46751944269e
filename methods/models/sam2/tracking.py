"""Prompts and tracks objects with SAM2 over shared frame features, several objects in one batch.

The arithmetic is that of the package's ``SAM2VideoPredictor`` (add_new_points_or_box, add_new_mask, then
propagate_in_video forward and in reverse in one state): every object has a memory of its own, prompted frames are
remembered as hard masks, memories are stored in bfloat16, and the backward pass may attend to memories of the forward
pass. What differs is what is computed: a frame is encoded once per video, objects of one prompt frame share a batch,
and memories out of every later frame's reach are dropped.

Shape legend: N objects (b of one batch), H W pixels of the video, S model image size, s low-resolution mask size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from rvosbench.methods.models.sam2.features import FrameFeatures
from rvosbench.methods.models.sam2.frames import FrameSource
from rvosbench.methods.models.sam2.model import Sam2
from rvosbench.methods.models.sam2.packed import PackedMasks
from rvosbench.methods.models.sam2.prompts import Boxes, Masks, Points, Prompt, Tokens
from rvosbench.methods.models.sam2.segmenter import PointMasks, TrackedMasks

Direction = Literal["forward", "backward"]
_FILLED = 0.1
"""Logit of a filled hole, as in the package."""


@dataclass(frozen=True, eq=False)
class PointLogits:
    """Mask logits of some points."""

    objects: slice
    """Which of the points."""
    logits: torch.Tensor
    """(b, H, W) float32."""
    predicted_iou: torch.Tensor
    """(b,)"""


class Sam2Video:
    """SAM2 opened on one video: a ``Segmenter``. Not for use from several threads."""

    def __init__(self, model: Sam2, frames: FrameSource) -> None:
        self._model = model
        self._features = FrameFeatures(model, frames)

    @property
    def size(self) -> tuple[int, int]:
        return self._features.size

    def __len__(self) -> int:
        return len(self._features)

    @property
    def features(self) -> FrameFeatures:
        """The encoded frames, with the count of encoder calls."""
        return self._features

    def masks_from_points(self, frame: int, points_N2: NDArray[np.float32]) -> PointMasks:
        """See ``Segmenter``; a mask is where the logit is above 0."""
        packed = PackedMasks.empty((len(points_N2),), *self.size)
        predicted_iou = np.empty(len(points_N2), dtype=np.float32)
        for batch in self.logits_from_points(frame, points_N2):
            packed.words[batch.objects] = PackedMasks.pack((batch.logits > 0).cpu().numpy()).words
            predicted_iou[batch.objects] = batch.predicted_iou.float().cpu().numpy()
        return PointMasks(packed, predicted_iou)

    def logits_from_points(self, frame: int, points_N2: NDArray[np.float32]) -> Iterator[PointLogits]:
        """The chosen candidate's logits and predicted IoU of each point, batch by batch."""
        for objects in self._batches(len(points_N2)):
            yield self._prompt_points(frame, objects, points_N2[objects])

    def propagate(self, frames: Sequence[int], prompt: Prompt) -> Iterator[TrackedMasks]:
        """See ``Segmenter``; batch by batch, so that memory does not grow with the number of objects."""
        for position, objects, logits_bHW in self.propagate_logits(frames, prompt):
            yield TrackedMasks(position, objects, (logits_bHW > 0).cpu().numpy())

    def propagate_logits(self, frames: Sequence[int], prompt: Prompt) -> Iterator[tuple[int, slice, torch.Tensor]]:
        """``propagate`` before the masks are cut at 0: (position, objects, logits at video resolution).

        Raises:
            ValueError: the prompted position, the masks' size or the tokens' width do not fit the video or the model.
        """
        start = prompt.position
        if not 0 <= start < len(frames):
            raise ValueError(f"prompt at position {start} of {len(frames)} frames")
        if isinstance(prompt, Masks) and prompt.mask_NHW.shape[1:] != self.size:
            raise ValueError(f"masks of size {prompt.mask_NHW.shape[1:]} for a video of {self.size}")
        width = self._model.network.sam_prompt_embed_dim
        if isinstance(prompt, Tokens) and prompt.embedding_NkC.shape[2] != width:
            raise ValueError(f"tokens of width {prompt.embedding_NkC.shape[2]} for a model of width {width}")
        for objects in self._batches(len(prompt)):
            tracker = _Tracker(self._model, self._features, frames)
            yield start, objects, tracker.start(prompt.take(objects))
            for position in range(start + 1, len(frames)):
                yield position, objects, tracker.step(position, "forward")
            for position in range(start - 1, -1, -1):
                yield position, objects, tracker.step(position, "backward")

    def _batches(self, count: int) -> Iterator[slice]:
        size = self._model.settings.object_batch
        for first in range(0, count, size):
            yield slice(first, min(first + size, count))

    @torch.inference_mode()
    def _prompt_points(self, frame: int, objects: slice, points_b2: NDArray[np.float32]) -> PointLogits:
        model = self._model
        count = len(points_b2)
        coordinates = torch.from_numpy(np.asarray(points_b2, dtype=np.float32)) * model.network.image_size
        prompts = {
            "point_coords": coordinates[:, None].to(model.device),
            "point_labels": torch.ones(count, 1, dtype=torch.int32, device=model.device),
        }
        vision = self._features.inputs(frame, count)
        with model.precision():
            # track_step would drop the predicted IoUs.
            _, outputs, _, _ = model.network._track_step(
                frame_idx=0,
                is_init_cond_frame=True,
                current_vision_feats=vision.features,
                current_vision_pos_embeds=vision.positions,
                feat_sizes=vision.sizes,
                point_inputs=prompts,
                mask_inputs=None,
                output_dict={},
                num_frames=1,
                track_in_reverse=False,
                prev_sam_mask_logits=None,
            )
        _, _, ious, low_b1ss, *_ = outputs
        low_b1ss = fill_holes(low_b1ss, model.settings.fill_hole_area)
        return PointLogits(objects, _to_size(low_b1ss, self.size)[:, 0], ious.max(dim=1).values)


@dataclass(frozen=True, eq=False)
class _PromptInputs:
    """A prompt as ``SAM2Base.track_step`` takes it: points, or masks of the model's image size."""

    points: dict[str, torch.Tensor] | None = None
    masks_b1SS: torch.Tensor | None = None


def _inputs(network: Any, prompt: Prompt, device: torch.device) -> _PromptInputs:
    if isinstance(prompt, Masks):
        size = (network.image_size, network.image_size)
        masks_b1HW = torch.from_numpy(np.ascontiguousarray(prompt.mask_NHW)).to(device)[:, None].float()
        if masks_b1HW.shape[-2:] != size:
            resized = interpolate(masks_b1HW, size=size, mode="bilinear", align_corners=False, antialias=True)
            masks_b1HW = (resized >= 0.5).float()
        return _PromptInputs(masks_b1SS=masks_b1HW)
    if isinstance(prompt, Points):
        xy_bP2, label_bP = prompt.xy_NP2, prompt.label_NP
    elif isinstance(prompt, Boxes):
        # The package's form of a box: its corners as points with labels of their own.
        xy_bP2 = prompt.xyxy_N4.reshape(-1, 2, 2)
        label_bP = np.tile(np.array([2, 3], dtype=np.int32), (len(prompt), 1))
    else:
        # Their embeddings are replaced; their number decides how many candidates the decoder gives.
        count = 1 if prompt.candidates == "best_of_three" else network.multimask_max_pt_num + 1
        xy_bP2 = np.zeros((len(prompt), count, 2), dtype=np.float32)
        label_bP = np.full((len(prompt), count), -1, dtype=np.int32)
    coordinates = torch.from_numpy(np.array(xy_bP2, dtype=np.float32)) * network.image_size
    labels = torch.from_numpy(np.array(label_bP, dtype=np.int32))
    return _PromptInputs({"point_coords": coordinates.to(device), "point_labels": labels.to(device)})


@contextmanager
def _tokens_in_place(network: Any, prompt: Prompt, device: torch.device) -> Iterator[None]:
    """Puts tokens where the prompt encoder's sparse embeddings go, while the prompted frame is run."""
    if not isinstance(prompt, Tokens):
        yield
        return
    tokens_bkC = torch.from_numpy(np.array(prompt.embedding_NkC, dtype=np.float32)).to(device)
    hook = network.sam_prompt_encoder.register_forward_hook(lambda _module, _inputs, outputs: (tokens_bkC, outputs[1]))
    try:
        yield
    finally:
        hook.remove()


class _Tracker:
    """The memory of a batch of objects prompted on the same frame, and the steps that grow it."""

    def __init__(self, model: Sam2, features: FrameFeatures, frames: Sequence[int]) -> None:
        self._model = model
        self._features = features
        self._frames = frames
        self._objects = 0
        self._prompt = 0
        self._outputs: dict[str, dict[int, dict[str, Any]]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
        network = model.network
        stride, memories = network.memory_temporal_stride_for_eval, network.num_maskmem
        # The furthest memory a frame attends to: the last frame, then every stride-th one from two frames back.
        self._memory_reach = max(1, 1 + stride + (memories - 3) * stride)
        self._pointer_reach = network.max_obj_ptrs_in_encoder - 1 if network.use_obj_ptrs_in_encoder else 0

    @torch.inference_mode()
    def start(self, prompt: Prompt) -> torch.Tensor:
        """Prompts a batch of objects; their logits at video resolution, (b, H, W)."""
        network, settings = self._model.network, self._model.settings
        self._prompt, self._objects = prompt.position, len(prompt)
        size = (network.image_size, network.image_size)
        with self._model.precision(), _tokens_in_place(network, prompt, self._model.device):
            output = self._track(prompt.position, _inputs(network, prompt, self._model.device), "forward")
            low_b1ss = fill_holes(output["pred_masks"], settings.fill_hole_area)
            vision = self._features.inputs(self._frames[prompt.position], self._objects)
            memory, positions = network._encode_new_memory(
                current_vision_feats=vision.features,
                feat_sizes=vision.sizes,
                pred_masks_high_res=_to_size(low_b1ss, size),
                object_score_logits=output["object_score_logits"],
                is_mask_from_pts=True,
            )
        self._outputs["cond_frame_outputs"][prompt.position] = {
            "maskmem_features": memory.to(torch.bfloat16),
            "maskmem_pos_enc": positions,
            "obj_ptr": output["obj_ptr"],
        }
        return _to_size(low_b1ss, self._features.size)[:, 0]

    @torch.inference_mode()
    def step(self, position: int, direction: Direction) -> torch.Tensor:
        """Tracks to a neighbour of the last frame; logits at video resolution, (b, H, W)."""
        with self._model.precision():
            output = self._track(position, None, direction)
        prompted = self._outputs["cond_frame_outputs"][self._prompt]
        self._outputs["non_cond_frame_outputs"][position] = {
            "maskmem_features": output["maskmem_features"].to(torch.bfloat16),
            # The same on every frame: one tensor serves all.
            "maskmem_pos_enc": prompted["maskmem_pos_enc"],
            "obj_ptr": output["obj_ptr"],
        }
        self._forget(position, direction)
        low_b1ss = fill_holes(output["pred_masks"], self._model.settings.fill_hole_area)
        return _to_size(low_b1ss, self._features.size)[:, 0]

    def _track(self, position: int, prompt: _PromptInputs | None, direction: Direction) -> dict[str, Any]:
        vision = self._features.inputs(self._frames[position], self._objects)
        output: dict[str, Any] = self._model.network.track_step(
            frame_idx=position,
            is_init_cond_frame=prompt is not None,
            current_vision_feats=vision.features,
            current_vision_pos_embeds=vision.positions,
            feat_sizes=vision.sizes,
            point_inputs=None if prompt is None else prompt.points,
            mask_inputs=None if prompt is None else prompt.masks_b1SS,
            output_dict=self._outputs,
            num_frames=len(self._frames),
            track_in_reverse=direction == "backward",
            # A prompted frame is remembered from its low-resolution mask, as the package does.
            run_mem_encoder=prompt is None,
        )
        return output

    def _forget(self, position: int, direction: Direction) -> None:
        """Drops what no later frame attends to: neither onwards, nor backwards from the prompt after turning round."""
        outputs = self._outputs["non_cond_frame_outputs"]
        for other in list(outputs):
            # The next frame is one further on; so is the first frame backwards from the prompt.
            distance = abs(other - position) + 1
            if direction == "forward":
                distance = min(distance, other - self._prompt + 1)
            if distance > self._memory_reach:
                outputs[other]["maskmem_features"] = None
            if distance > max(self._memory_reach, self._pointer_reach):
                del outputs[other]


def fill_holes(logits_b1ss: torch.Tensor, max_area: int) -> torch.Tensor:
    """Background components (8-connected) of at most ``max_area`` pixels become faint foreground; 0 changes nothing.

    Gives what the package's CUDA extension gives, on every device.
    """
    if max_area == 0:
        return logits_b1ss
    background = (logits_b1ss[:, 0] <= 0).cpu().numpy().astype(np.uint8)
    holes = np.zeros(background.shape, dtype=bool)
    for i, background_ss in enumerate(background):
        _, labels_ss, statistics, _ = cv2.connectedComponentsWithStats(background_ss, connectivity=8)
        small = statistics[:, cv2.CC_STAT_AREA] <= max_area
        small[0] = False  # label 0 is the foreground of the mask
        holes[i] = small[labels_ss]
    return torch.where(torch.from_numpy(holes).to(logits_b1ss.device)[:, None], _FILLED, logits_b1ss)


def _to_size(logits_b1ss: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    if tuple(logits_b1ss.shape[-2:]) == size:
        return logits_b1ss
    return interpolate(logits_b1ss, size=size, mode="bilinear", align_corners=False)
