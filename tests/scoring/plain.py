"""The metric written as its definition says, pixel by pixel: what the fast code is compared with."""

from __future__ import annotations

import math

import numpy as np

from rvosbench.harness.data.types import BoolHW


def boundary(mask_HW: BoolHW) -> BoolHW:
    height, width = mask_HW.shape
    out_HW = np.zeros((height, width), dtype=bool)
    for y in range(height):
        for x in range(width):
            neighbours = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            if y == height - 1:
                neighbours = [(y, x + 1)]
            if x == width - 1:
                neighbours = [(y + 1, x)]
            if (y, x) == (height - 1, width - 1):
                neighbours = []
            out_HW[y, x] = any(mask_HW[y, x] != mask_HW[there] for there in neighbours)
    return out_HW


def near(points_HW: BoolHW, others_HW: BoolHW, radius: int) -> int:
    """Points of the first with a point of the second within the radius."""
    points, others = np.argwhere(points_HW), np.argwhere(others_HW)
    if not len(points) or not len(others):
        return 0
    squared = ((points[:, None] - others[None]) ** 2).sum(axis=2)
    return int((squared.min(axis=1) <= radius**2).sum())


def counts(gt_HW: BoolHW, pred_HW: BoolHW, void_HW: BoolHW | None = None) -> tuple[int, int, int, int, int, int]:
    if void_HW is not None:
        gt_HW, pred_HW = gt_HW & ~void_HW, pred_HW & ~void_HW
    height, width = gt_HW.shape
    radius = math.ceil(0.008 * math.sqrt(height**2 + width**2))
    gt_edge_HW, pred_edge_HW = boundary(gt_HW), boundary(pred_HW)
    return (
        int((gt_HW & pred_HW).sum()),
        int((gt_HW | pred_HW).sum()),
        int(gt_edge_HW.sum()),
        int(pred_edge_HW.sum()),
        near(gt_edge_HW, pred_edge_HW, radius),
        near(pred_edge_HW, gt_edge_HW, radius),
    )


def j(row: tuple[int, ...]) -> float:
    return 1.0 if row[1] == 0 else row[0] / row[1]


def f(row: tuple[int, ...]) -> float:
    _, _, n_gt, n_pred, m_gt, m_pred = row
    if n_gt == 0 and n_pred == 0:
        return 1.0
    if n_gt == 0 or n_pred == 0:
        return 0.0
    precision, recall = m_pred / n_pred, m_gt / n_gt
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)
