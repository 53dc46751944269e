"""A finished clip: a scene worth watching, its masks and its expressions, from (seed, split, index) alone.

Shape legend: T frames, N things, H W pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rvosbench.harness.data.synthetic import render
from rvosbench.harness.data.synthetic.language import Sentence, Writer, choose
from rvosbench.harness.data.synthetic.motion import TRAVELLING
from rvosbench.harness.data.synthetic.stage import NoRoomError, touch
from rvosbench.harness.data.synthetic.stories import STORIES, tell
from rvosbench.harness.data.synthetic.view import View
from rvosbench.harness.data.synthetic.world import Scene
from rvosbench.harness.data.types import BoolHW, FrameHW3

SPLITS = {"train": 0, "valid": 1, "valid_u": 2, "test": 3}
"""Numbers that enter the random seed: no clip occurs in two splits."""
ATTEMPTS = 400


@dataclass(frozen=True, eq=False)
class Clip:
    """One video of the bundled world."""

    split: str
    index: int
    scene: Scene
    ids_THW: NDArray[np.uint8]
    """Which thing is seen where, 0 = background."""
    sentences: tuple[Sentence, ...]
    """Referring, reasoning and no-target expressions, in file order."""
    reasons: tuple[Sentence, ...]
    """All wordings of all single-target reasoning expressions, for sets made of these alone."""
    quartets: Mapping[int, tuple[str, str, str, str]]
    """Ref-DAVIS17 expressions by thing id, for the things that a first frame singles out."""

    @property
    def name(self) -> str:
        """Unique over splits."""
        return f"{self.split}-{self.index:04d}"

    def mask(self, targets: tuple[int, ...], frame: int) -> BoolHW:
        """Union of the targets' visible masks on a frame, (H, W) bool."""
        return np.isin(self.ids_THW[frame], targets)

    def pictures(self, frames: Iterable[int] | None = None) -> Iterator[FrameHW3]:
        """The frames in order, all or the ones named, (H, W, 3) uint8 RGB."""
        return render.pictures(self.scene, frames)


def make_clip(seed: int, split: str, index: int) -> Clip:
    """The clip ``index`` of a split. Stories take turns; a scene that shows too little is drawn again.

    Raises:
        RuntimeError: no attempt gave an acceptable scene (a story asks for the impossible).
    """
    story = STORIES[index % len(STORIES)]
    for attempt in range(ATTEMPTS):
        rng = np.random.default_rng([seed, SPLITS[split], index, attempt])
        try:
            scene = tell(rng, story)
        except NoRoomError:
            continue
        if any(touch(*pair) for pair in itertools.combinations(scene.things, 2)):
            continue
        ids_THW = render.id_maps(scene)
        view = View(scene, ids_THW)
        if not _watchable(view):
            continue
        writer = Writer(view, rng)
        quartets = {thing.id: four for thing in scene.things if (four := _quartet(writer, thing.id)) is not None}
        reasons = [(claim.kind, sentence) for claim, sentence in writer.reasoning() if len(sentence.targets) == 1]
        if len(quartets) < 2 or all(kind == "commonsense" for kind, _ in reasons):
            continue
        sentences = choose(writer)
        if len({sentence.subset for sentence in sentences}) == 3:
            return Clip(split, index, scene, ids_THW, sentences, tuple(s for _, s in reasons), quartets)
    raise RuntimeError(f"no acceptable scene for story {story.__name__!r}, seed {seed}, {split} clip {index}")


def _watchable(view: View) -> bool:
    """Whether every thing is shown whole at some time, present at first unless it comes later, and seldom hidden."""
    for thing in view.scene.things:
        share_T, inside_T = view.share_NT[thing.id - 1], view.inside_NT[thing.id - 1]
        if share_T.max() < 0.93 or inside_T.sum() < 4 or (share_T[inside_T] < 0.5).mean() > 0.4:
            return False
        if thing.motion != "enters" and share_T[0] < 0.85:
            return False
        if thing.motion in TRAVELLING and view.length(thing.id) < 0.2:
            return False
        # Neither hidden nor cut at the end, so that what one sees last is clear.
        if thing.motion != "leaves" and share_T[-1] < 0.6:
            return False
    return True


def _quartet(writer: Writer, id: int) -> tuple[str, str, str, str] | None:
    return writer.four(id) if writer.view.share_NT[id - 1, 0] >= 0.5 else None
