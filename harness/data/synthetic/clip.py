"""A finished clip: an accepted scene, its masks and its expressions, determined by (seed, split, index).

Shape legend: T frames, N objects, H W pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rvosbench.harness.data.synthetic import render
from rvosbench.harness.data.synthetic.builder import NoRoomError, touch
from rvosbench.harness.data.synthetic.language import Sentence, Writer, choose
from rvosbench.harness.data.synthetic.motion import TRAVELLING
from rvosbench.harness.data.synthetic.scenarios import SCENARIOS, build_scene
from rvosbench.harness.data.synthetic.scene import Scene
from rvosbench.harness.data.synthetic.view import View
from rvosbench.harness.data.types import BoolHW, FrameHW3

SPLITS = {"train": 0, "valid": 1, "valid_u": 2, "test": 3}
"""Numbers that enter the random seed: no clip occurs in two splits."""
ATTEMPTS = 400


@dataclass(frozen=True, eq=False)
class Clip:
    """One video of the synthetic dataset."""

    split: str
    index: int
    scene: Scene
    ids_THW: NDArray[np.uint8]
    """Which object is seen where, 0 = background."""
    sentences: tuple[Sentence, ...]
    """Referring, reasoning and no-target expressions, in file order."""
    reasons: tuple[Sentence, ...]
    """All wordings of all single-target reasoning expressions, for datasets of reasoning expressions only."""
    quartets: Mapping[int, tuple[str, str, str, str]]
    """Ref-DAVIS17 expressions by object id, for the objects that a first frame singles out."""

    @property
    def name(self) -> str:
        """Unique over splits."""
        return f"{self.split}-{self.index:04d}"

    def mask(self, targets: tuple[int, ...], frame: int) -> BoolHW:
        """Union of the targets' visible masks on a frame, (H, W) bool."""
        return np.isin(self.ids_THW[frame], targets)

    def images(self, frames: Iterable[int] | None = None) -> Iterator[FrameHW3]:
        """The frames in order, all or the ones named, (H, W, 3) uint8 RGB."""
        return render.images(self.scene, frames)


def make_clip(seed: int, split: str, index: int) -> Clip:
    """The clip ``index`` of a split. Scenarios take turns; a scene that shows too little is drawn again.

    Raises:
        RuntimeError: no attempt gave an acceptable scene (a scenario asks for the impossible).
    """
    scenario = SCENARIOS[index % len(SCENARIOS)]
    for attempt in range(ATTEMPTS):
        rng = np.random.default_rng([seed, SPLITS[split], index, attempt])
        try:
            scene = build_scene(rng, scenario)
        except NoRoomError:
            continue
        if any(touch(*pair) for pair in itertools.combinations(scene.objects, 2)):
            continue
        ids_THW = render.id_maps(scene)
        view = View(scene, ids_THW)
        if not _watchable(view):
            continue
        writer = Writer(view, rng)
        quartets = {obj.id: four for obj in scene.objects if (four := _quartet(writer, obj.id)) is not None}
        reasons = [(claim.kind, sentence) for claim, sentence in writer.reasoning() if len(sentence.targets) == 1]
        if len(quartets) < 2 or all(kind == "commonsense" for kind, _ in reasons):
            continue
        sentences = choose(writer)
        if len({sentence.subset for sentence in sentences}) == 3:
            return Clip(split, index, scene, ids_THW, sentences, tuple(s for _, s in reasons), quartets)
    raise RuntimeError(f"no acceptable scene for scenario {scenario.__name__!r}, seed {seed}, {split} clip {index}")


def _watchable(view: View) -> bool:
    """Whether every object is shown whole at some time, present at first unless it comes later, and seldom hidden."""
    for obj in view.scene.objects:
        visible_fraction_T, inside_T = view.visible_fraction_NT[obj.id - 1], view.inside_NT[obj.id - 1]
        if visible_fraction_T.max() < 0.93 or inside_T.sum() < 4 or (visible_fraction_T[inside_T] < 0.5).mean() > 0.4:
            return False
        if obj.motion != "enters" and visible_fraction_T[0] < 0.85:
            return False
        if obj.motion in TRAVELLING and view.length(obj.id) < 0.2:
            return False
        # Neither hidden nor cut at the end, so that what one sees last is clear.
        if obj.motion != "leaves" and visible_fraction_T[-1] < 0.6:
            return False
    return True


def _quartet(writer: Writer, id: int) -> tuple[str, str, str, str] | None:
    return writer.four(id) if writer.view.visible_fraction_NT[id - 1, 0] >= 0.5 else None
