"""Writes tiny benchmarks by hand, trap by trap."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

SIZE = (6, 8)
"""(H, W) of the hand-written frames."""


class Tree:
    """A data root under construction."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def json(self, path: str, value: Any) -> Path:
        return self.text(path, json.dumps(value))

    def text(self, path: str, text: str) -> Path:
        full = self._made(path)
        full.write_text(text, encoding="utf-8")
        return full

    def pickle(self, path: str, value: Any, protocol: int | None = None) -> Path:
        full = self._made(path)
        full.write_bytes(pickle.dumps(value, protocol=protocol))
        return full

    def frames(self, folder: str, names: Sequence[str], size: tuple[int, int] = SIZE, suffix: str = ".jpg") -> None:
        for number, name in enumerate(names):
            frame_HW3 = np.full((*size, 3), 40 + 10 * number, dtype=np.uint8)
            Image.fromarray(frame_HW3).save(self._made(f"{folder}/{name}{suffix}"))

    def palette(self, path: str, labels_HW: Any) -> Path:
        """An index PNG with the PASCAL colours, as DAVIS has them."""
        full = self._made(path)
        image = Image.fromarray(np.asarray(labels_HW, dtype=np.uint8), mode="P")
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0] + [0] * 753 + [224, 224, 192])
        image.save(full)
        return full

    def binary(self, path: str, mask_HW: Any, value: int = 255) -> Path:
        full = self._made(path)
        Image.fromarray(np.asarray(mask_HW, dtype=np.uint8) * np.uint8(value)).save(full)
        return full

    def _made(self, path: str) -> Path:
        full = self.root / path
        full.parent.mkdir(parents=True, exist_ok=True)
        return full


def square(y: int, x: int, side: int = 2, size: tuple[int, int] = SIZE) -> Any:
    """A bool mask with one square."""
    mask_HW = np.zeros(size, dtype=bool)
    mask_HW[y : y + side, x : x + side] = True
    return mask_HW


def rle(mask_HW: Any, *, as_bytes: bool = False) -> dict[str, Any]:
    """COCO RLE as a JSON (text) or a pickle (bytes) holds it."""
    encoded = coco.encode(np.asfortranarray(mask_HW, dtype=np.uint8))
    return {"size": list(encoded["size"]), "counts": encoded["counts"] if as_bytes else encoded["counts"].decode()}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "data")


@pytest.fixture(name="square")
def _square() -> Any:
    return square


@pytest.fixture(name="rle")
def _rle() -> Any:
    return rle
