"""The ground truth of one frame, read when first needed and shared by all expressions of the video.

Shape legend: H W pixels.
"""

from __future__ import annotations

from rvosbench.harness.data.ground_truth import VOID, PaletteGroundTruth
from rvosbench.harness.data.types import BoolHW, Expression, GroundTruth, Video
from rvosbench.harness.errors import SampleError
from rvosbench.harness.scoring.kernel import GroundTruthFrame

Truth = GroundTruthFrame | SampleError
"""A prepared mask, or why it cannot be read."""


class FrameTruths:
    """Ground truth of one frame by expression; expressions with the same targets share one prepared mask."""

    def __init__(self, video: Video, ground_truth: GroundTruth, frame: int) -> None:
        self.video = video
        self.frame = frame
        self._ground_truth = ground_truth
        self._known: dict[tuple[str, ...], Truth] = {}
        self._without_void: dict[tuple[str, ...], Truth] = {}
        self._void_HW: BoolHW | None = None
        self._void_known = False

    def of(self, expression: Expression) -> Truth:
        """The expression's mask, void pixels being background."""
        if expression.targets not in self._known:
            try:
                mask_HW = self._ground_truth.mask(self.video, expression, self.frame)
                self._known[expression.targets] = GroundTruthFrame(mask_HW)
            except SampleError as error:
                self._known[expression.targets] = error
        return self._known[expression.targets]

    def without_void(self, expression: Expression) -> Truth:
        """The expression's mask, where void pixels count neither in it nor in what is compared with it."""
        truth = self.of(expression)
        if isinstance(truth, SampleError):
            return truth
        void_HW = self._void()
        if void_HW is None:
            return truth
        if expression.targets not in self._without_void:
            self._without_void[expression.targets] = GroundTruthFrame(truth.mask_HW, void_HW)
        return self._without_void[expression.targets]

    def _void(self) -> BoolHW | None:
        if not self._void_known and isinstance(self._ground_truth, PaletteGroundTruth):
            void_HW: BoolHW = self._ground_truth.labels(self.video, self.frame) == VOID
            self._void_HW = void_HW if void_HW.any() else None
        self._void_known = True
        return self._void_HW
