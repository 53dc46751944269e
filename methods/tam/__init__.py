"""TAM: token activation maps, what in the picture an answer's word comes from.

Paper: "Token Activation Map to Visually Explain Multimodal LLMs", arXiv 2506.23270. Code read for behaviour:
xmed-lab/TAM at 7c7df1d. Used on videos as a baseline by DecAF (arXiv 2510.19592, Table 1): DecAF's object prompt, Qwen
families only, attention masks only.

A word's activation at a position is max(0, its logit there). The word's map is its activations at the visual tokens,
less what earlier, different words of prompt and answer explain (their maps, weighted by the word's activations at
their positions, scaled by least squares), min-max normalised together with its activations at the text, and denoised
by a Gaussian over the ranks of 3x3 windows. Here every family whose visual tokens form a grid has maps; InternVL3's
and LLaVA-OneVision's are put on one grid first (the code filters a grid as well).

``version: released`` repeats what the code does at its first round. Asked for the first answer token, it explains the
last prompt token's class (a newline) in its place, and then returns another map still: the one of the first prompt
token, with the class predicted there in place of its own and without interference. Later tokens hold these two maps
against the picture. DecAF's answers are one word, often one token, so this may be what its 2 to 4 J&F measure; nobody
says. ``fixed`` explains every token by its own class.

Different from the code on purpose, in both versions:

* words are compared by vocabulary id; the code decodes and tokenises the text again, and compares the pieces;
* least squares in closed form (the code: a numeric search that finds the same);
* windows of equal values keep their value (the code: 0 / 0), and a map without spread is 0;
* only needed classes are projected, in float32 (the code: the whole vocabulary, in the model's type);
* maps stay float32 until masks are cut (the code rounds them to 8 bits first);
* an empty answer gives empty masks.

Not said by DecAF and settings here: the token (``token``) and the view (``view``).

Published by DecAF, J&F on Ref-DAVIS17 / ReasonVOS / ReVOS: Qwen2-VL-7B 2.5 / 2.8 / 2.8, Qwen2.5-VL-7B 3.5 / 3.7 / 4.0.
"""

from __future__ import annotations

from collections.abc import Iterator

from rvosbench.harness.costs import Work
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.requirements import Requirement
from rvosbench.harness.stages import Method, Stage, StageSpec, required_lvlm
from rvosbench.methods.attention.spec import RolloutSpec
from rvosbench.methods.models.lvlm.base import LvlmSettings
from rvosbench.methods.models.lvlm.checkpoints import config_of, family_of, lvlm_settings
from rvosbench.methods.models.lvlm.load import load_lvlm
from rvosbench.methods.models.requirements import lvlm_requirement
from rvosbench.methods.segment.from_map import map_stage, stage
from rvosbench.methods.segment.settings import SegmentSettings, ThresholdSettings
from rvosbench.methods.tam.settings import GroundSettings, TamSettings, TokenMapSettings
from rvosbench.methods.tam.stages import Ground, token_reader


def build_ground(settings: GroundSettings) -> Stage:
    """The stage that generates and makes the maps; loads the vision-language model."""
    return Ground(settings, load_lvlm(settings.lvlm))


def build_segment(settings: SegmentSettings[TokenMapSettings]) -> Stage:
    """The stage that cuts masks out of a map; loads nothing."""
    return stage(settings.masks, token_reader(settings.map))


class Tam:
    """TAM as a registered method."""

    name = "tam"
    title = "TAM"
    paper = "arXiv 2506.23270"
    settings_type = TamSettings
    needs_lvlm = True

    def stages(self, settings: TamSettings, lvlm: str | None) -> tuple[StageSpec, ...]:
        """``ground``, ``segment``.

        Raises:
            PrerequisiteError: no model is named, its checkpoint is missing or unsupported, or it has no clip view.
        """
        name = required_lvlm(lvlm, self.title)
        if settings.view == "clip" and not family_of(name).takes_videos:
            raise PrerequisiteError(f"{name} sees single images, not clips.", "Set view: frame.")
        ground = GroundSettings(
            lvlm_settings(name, **vars(settings.lvlm)),
            settings.keyframes,
            settings.object_prompt,
            settings.view,
            settings.version,
            settings.causal,
        )
        return (
            StageSpec("ground", "rvosbench.methods.tam:build_ground", ground),
            map_stage(
                SegmentSettings(TokenMapSettings(settings.token), ThresholdSettings("otsu")),
                "rvosbench.methods.tam:build_segment",
            ),
        )

    def memory(self, settings: TamSettings, lvlm: str | None, size: tuple[int, int]) -> str:
        """The model's memory for one view, in one sentence; imports torch."""
        from rvosbench.methods.models.lvlm.estimate import estimate, in_words

        name = required_lvlm(lvlm, self.title)
        config = config_of(name)
        # Views are answered one at a time, and no queries are captured.
        model = LvlmSettings(checkpoint=name, digest="", **{**vars(settings.lvlm), "frame_batch": 1})
        frames = settings.keyframes if settings.view == "clip" else 1
        need = estimate(config, model, RolloutSpec(), frames=frames, height=size[0], width=size[1])
        length = need.clip_length if settings.view == "clip" else need.frame_length
        view = f"A clip of {frames} frames" if settings.view == "clip" else "A frame"
        return (
            f"{name}: {need.parameters / 1e6:,.0f} M parameters, {in_words(need.weight_bytes)} of weights in "
            f"{model.dtype}. {view} of {size[1]}x{size[0]} is L {length}: {in_words(need.kv_bytes)} keys and values, "
            f"{in_words(need.working_bytes)} temporaries, about {in_words(need.total_bytes - need.captured_bytes)} in "
            "all."
        )

    def requirements(self, settings: TamSettings, lvlm: str | None) -> Iterator[Requirement]:
        """The model."""
        yield lvlm_requirement(required_lvlm(lvlm, self.title))

    def work(self, settings: TamSettings) -> Work:
        """One answer about the clip, or one about every keyframe."""
        if settings.view == "clip":
            return Work(calls=1, texts=1, clips=1, short_answers=1)
        k = settings.keyframes
        return Work(calls=k, texts=k, frames=k, short_answers=k)


METHOD: Method[TamSettings] = Tam()
