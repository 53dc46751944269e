"""What training minimises: mask, predicted IoU and presence, over all records of an unroll.

As SAM2 is trained (arXiv 2408.00714, appendix D.2.2): of the three candidate masks only the best one is corrected,
the IoU predictions of all three are, and frames without the object teach nothing but its absence. In place of the
focal loss stands cross-entropy, which learns sooner in a short run.

Shape legend: R records, B objects, n = R * B, S side of the input, s of low-resolution masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

from toy.sam2.unroll import Steps

CROSS_ENTROPY_WEIGHT = 5.0
"""Of the mean over pixels, beside a Dice term of weight 1."""


@dataclass(frozen=True, eq=False)
class Losses:
    """Means of a batch, on the device."""

    mask: torch.Tensor
    iou: torch.Tensor
    presence: torch.Tensor
    click_iou: torch.Tensor
    """IoU of the candidate with the highest predicted IoU on the clicked frame; not minimised."""
    track_iou: torch.Tensor
    """The same on tracked frames that show the object, 0 where it is taken for hidden; NaN without any."""
    presence_accuracy: torch.Tensor

    @property
    def total(self) -> torch.Tensor:
        return self.mask + self.iou + self.presence

    def values(self) -> torch.Tensor:
        """(7,) detached, in the order of ``NAMES``."""
        parts = (self.total, self.mask, self.iou, self.presence, self.click_iou, self.track_iou, self.presence_accuracy)
        return torch.stack([part.detach() for part in parts])


NAMES = ("loss", "mask", "iou", "presence", "click_iou", "track_iou", "presence_accuracy")


def losses(steps: Steps, masks_TBSS: torch.Tensor) -> Losses:
    """Losses and measures of an unroll against the true masks."""
    records, count = steps.score_RB.shape
    true_nSS = masks_TBSS[list(steps.frames)].flatten(0, 1)
    logits_n3SS = interpolate(
        steps.logits_RB3ss.flatten(0, 1), size=true_nSS.shape[-2:], mode="bilinear", align_corners=False
    )
    iou_n3, score_n = steps.iou_RB3.flatten(0, 1), steps.score_RB.flatten(0, 1)
    present_n = true_nSS.flatten(1).any(dim=1)
    shown_n = present_n.float() / present_n.sum().clamp(min=1)

    best_n = _mask_loss(logits_n3SS, true_nSS).min(dim=1).values
    true_iou_n3 = _iou(logits_n3SS.detach() > 0, true_nSS)
    iou_error_n = (iou_n3 - true_iou_n3).abs().mean(dim=1)
    presence = binary_cross_entropy_with_logits(score_n, present_n.float())

    with torch.no_grad():
        chosen_n = true_iou_n3.gather(1, iou_n3.argmax(dim=1, keepdim=True))[:, 0] * (score_n > 0)
        tracked_n = present_n & (torch.arange(records * count, device=score_n.device) >= count)
        track_iou = (chosen_n * tracked_n).sum() / tracked_n.sum()
    return Losses(
        mask=(best_n * shown_n).sum(),
        iou=(iou_error_n * shown_n).sum(),
        presence=presence,
        click_iou=chosen_n[:count].mean(),
        track_iou=track_iou,
        presence_accuracy=((score_n > 0) == present_n).float().mean(),
    )


def _mask_loss(logits_n3SS: torch.Tensor, true_nSS: torch.Tensor) -> torch.Tensor:
    """Weighted cross-entropy plus Dice of each candidate, (n, 3)."""
    true_n3SS = true_nSS[:, None].float().expand_as(logits_n3SS)
    entropy_n3 = binary_cross_entropy_with_logits(logits_n3SS, true_n3SS, reduction="none").mean(dim=(-2, -1))
    probability_n3SS = logits_n3SS.sigmoid()
    shared_n3 = (probability_n3SS * true_n3SS).sum(dim=(-2, -1))
    both_n3 = probability_n3SS.sum(dim=(-2, -1)) + true_n3SS.sum(dim=(-2, -1))
    return CROSS_ENTROPY_WEIGHT * entropy_n3 + 1 - (2 * shared_n3 + 1) / (both_n3 + 1)


def _iou(masks_n3SS: torch.Tensor, true_nSS: torch.Tensor) -> torch.Tensor:
    """(n, 3); 0 where both are empty."""
    shared_n3 = (masks_n3SS & true_nSS[:, None]).sum(dim=(-2, -1))
    union_n3 = (masks_n3SS | true_nSS[:, None]).sum(dim=(-2, -1))
    return shared_n3 / union_n3.clamp(min=1)
