"""What can be set in Loc-Head, and what each stage is given of it. No torch is imported here.

What the literature leaves open is a setting here; the method's ``__init__`` lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.settings import Settings, identity, runtime
from rvosbench.methods.ground.fusion import Float32, KernelSize, Sigma, normalise_clip, normalise_frames, smooth
from rvosbench.methods.models.lvlm.base import LvlmOptions, LvlmSettings
from rvosbench.methods.models.lvlm.family import Edge, Family
from rvosbench.methods.models.lvlm.keyframes import Keyframes
from rvosbench.methods.segment.settings import MaskSettings
from rvosbench.methods.segment.settings import Threshold as Cut

Head = tuple[int, int]
"""Layer and head, from 0."""
Prompt = Literal["auto", "expression", "role_free", "object"]
Query = Literal["last_expression_token", "last_prefill_token"]
Positive = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Threshold = Literal["mean_sums", "each_sample", "head_index"]


def resolved_prompt(prompt: Prompt, family: Family) -> Prompt:
    """The prompt that "auto" means for a family.

    Raises:
        PrerequisiteError: "role_free" for a family that has no such prompt.
    """
    if prompt == "auto":
        return family.lochead_prompt
    if prompt == "role_free" and family.lochead_prompt != "role_free":
        raise PrerequisiteError(
            f"prompt is role_free, which {family.title} does not have.", "Choose expression, object or auto."
        )
    return prompt


@dataclass(frozen=True)
class CalibrationSettings(Settings):
    """How localization heads are found. The defaults are the paper's; ``VARIANTS`` has the released code's."""

    samples: Positive = identity(1000)
    """Pairs of image and expression in a trial; all there are, where there are fewer."""
    trials: Positive = identity(5)
    """Selection frequencies are averaged over this many draws."""
    seed: Natural = identity(0)
    keep: Positive = identity(3)
    """Fixed heads: the most frequently selected ones."""
    top: Positive = identity(10)
    """Heads selected on each pair; a published fork of the code takes 5."""
    first_layer: Natural = identity(2)
    """Layers before it are excluded."""
    threshold: Threshold = identity("mean_sums")
    """What a head's attention sum is held against. "mean_sums": heads whose sum, averaged over the trial's pairs, is at
    or above the elbow of all such means. "each_sample": the same with each pair's own sums (the code's second version).
    "head_index": on each pair, heads that are counted at or after the head at the elbow, whatever their sums (the
    code's first version)."""
    over_mean: NotNegative = identity(1.0)
    """Spatial entropy looks at what exceeds this many times the map's mean."""
    cut: NotNegative = identity(0.0)
    """And by more than this."""
    weight: Literal["area", "mass"] = identity("area")
    """A component's probability: its cells over the cells of all components, or its attention over all that exceeds,
    what ``cut`` removes included, so that probabilities may sum to less than 1."""
    ties: Literal["sum", "order"] = identity("sum")
    """Which of two heads with equal entropy comes first: the one with the larger attention sum on the pair, or the one
    counted first. Entropy is 0 for every map with one component, so ties are common; the paper does not say."""
    sink_edges: tuple[Edge, ...] | None = identity(None)
    """A head with a cell above ``sink_above`` on one of these edges is not selected on that pair. None: the family's
    (``Family.sink_edges``)."""
    sink_above: NotNegative = identity(0.05)
    """Attention of one cell; the value is the released code's."""

    def edges(self, family: Family) -> tuple[Edge, ...]:
        """The edges on which sinks are looked for in a model of a family."""
        return family.sink_edges if self.sink_edges is None else self.sink_edges


VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "paper": {},
    "released": {"threshold": "each_sample", "over_mean": 2.0, "cut": 0.001, "weight": "mass", "ties": "order"},
    "first_release": {
        "threshold": "head_index",
        "cut": 0.001,
        "weight": "mass",
        "ties": "order",
        "first_layer": 0,
        "sink_edges": (),
    },
}
"""What differs from the paper's in the released code: its second version ("overhaul"), and its first."""


@dataclass(frozen=True)
class CalibrateSettings(Settings):
    """Everything ``rvosbench calibrate lochead`` can be told about how a model is asked and read."""

    prompt: Prompt = identity("auto")
    query: Query = identity("last_expression_token")
    lvlm: LvlmOptions = identity(LvlmOptions())
    calibration: CalibrationSettings = identity(CalibrationSettings())


@dataclass(frozen=True)
class GroundSettings(Settings):
    """Of the stage that reads the heads' attention."""

    lvlm: LvlmSettings = identity()
    """Its ``max_new_tokens`` has no effect here: nothing is generated."""
    keyframes: int = identity()
    heads: tuple[Head, ...] = identity()
    prompt: Prompt = identity()
    """Resolved: never "auto"."""
    query: Query = identity()


@dataclass(frozen=True)
class MapSettings(Settings):
    """How the heads' maps become one map."""

    sigma: Sigma = identity(1.0)
    """Standard deviation of the Gaussian on every head's map, in cells."""
    kernel: KernelSize = identity(7)
    """Its size; odd. Outside the map counts as zero, as in DecAF."""
    normalise: Literal["frame", "clip"] = identity("frame")
    """Min-max of the summed map before points are taken at ``tau_point``: each frame alone, or over the clip."""

    def fuse(self, maps_KThw: Float32) -> Float32:
        """The heads' maps, smoothed, summed and normalised: (T, h, w) in [0, 1]."""
        summed_Thw = smooth(maps_KThw[0], self.kernel, self.sigma)
        for map_Thw in maps_KThw[1:]:
            summed_Thw = summed_Thw + smooth(map_Thw, self.kernel, self.sigma)
        return (normalise_frames if self.normalise == "frame" else normalise_clip)(summed_Thw)


@dataclass(frozen=True)
class LocHeadSettings(MaskSettings):
    """Loc-Head on videos, as DecAF's authors describe their reproduction."""

    keyframes: Keyframes = identity(16)
    """Frames that the model sees one by one, spread evenly; a shorter video is seen whole."""
    heads: str = runtime("known")
    """Which heads are read. "known": those published for the model. A file that ``rvosbench calibrate lochead`` wrote,
    or a folder of such files, of which the model's is taken. A name of ``known_heads.yaml`` for a copy of that model in
    a folder. Or the heads themselves, "L14H24 L14H13". Not identity: what it leads to is."""
    prompt: Prompt = identity("auto")
    """What the model is asked. "expression": the expression alone, in the checkpoint's chat. "role_free": the original
    code's prompt for LLaVA-1.5, a system sentence, the image, the expression and nothing else. "object": DecAF's
    object prompt, which begins with the expression. "auto": role_free for LLaVA-1.5, expression otherwise."""
    query: Query = identity("last_expression_token")
    """Whose attention is read: the paper's "last token of the input text" is the expression's last token where the text
    is the expression alone; "last_prefill_token" is the last one before the answer, as DecAF reads it."""
    lvlm: LvlmOptions = identity(LvlmOptions())
    """How the model sees images; its name stands in the recipe. Frames are shown as DecAF shows them."""
    map: MapSettings = identity(MapSettings())
    """How the heads' maps become one map. ``masks`` "sam2" is DecAF's point-to-tracklet stage on it."""
    threshold: Cut = identity("otsu")
    """What cuts the map of attention masks, on each frame: Otsu's threshold (what DecAF says of attention masks in
    general), or the frame's mean (Loc-Head's own binarisation)."""
