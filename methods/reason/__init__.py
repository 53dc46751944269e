"""Chain-of-thought reasoning: what a model says about an expression before anything is looked for.

Source: SteerSeg (arXiv 2605.14908), whose call asks for attributes and reasons at once. Wording, numbers and decoding
are ours where the paper's are not public; see ``prompts`` and ``settings``.
"""

from __future__ import annotations

from dataclasses import replace

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.servers import Servers
from rvosbench.harness.stages import Stage, StageSpec
from rvosbench.methods.models.lvlm.base import LvlmSettings
from rvosbench.methods.models.lvlm.checkpoints import family_of
from rvosbench.methods.reason.settings import CotSettings, ReasoningSettings


def reason_stage(settings: ReasoningSettings, lvlm: LvlmSettings) -> StageSpec:
    """The ``reason`` stage that asks ``lvlm`` for attributes; see ``methods.reason.stage`` for its artefact.

    Raises:
        PrerequisiteError: the model sees single images only, or its configuration is not to be had.
    """
    if not family_of(lvlm.checkpoint).takes_videos:
        raise PrerequisiteError(
            f"{lvlm.checkpoint} sees single images, so it cannot reason about a clip.",
            "Choose a model that takes videos, or a variant without chain of thought.",
        )
    server = settings.engine == "server"
    # What has no part in this call must not enter the key: other settings of frame calls or kernels repeat no call.
    lvlm = replace(lvlm, max_new_tokens=settings.max_new_tokens, frame_scale=1)
    if server:
        lvlm = replace(lvlm, attention="sdpa", extra_tokens="keep")
    cot = CotSettings(settings if server else replace(settings, structured=False), lvlm)
    if not server:
        return StageSpec("reason", "rvosbench.methods.reason:build_reason", cot)
    from rvosbench.methods.reason.remote import server_need

    return StageSpec("reason", "rvosbench.methods.reason:build_reason", cot, server=server_need(cot))


def build_reason(settings: CotSettings, servers: Servers | None = None) -> Stage:
    """The stage; loads the model, or finds the servers that have it."""
    from rvosbench.methods.reason.stage import LocalReasoner, Reason

    if settings.reasoning.engine == "local":
        from rvosbench.methods.models.lvlm.load import load_lvlm

        return Reason(settings, LocalReasoner(load_lvlm(settings.lvlm)))
    from rvosbench.methods.reason.remote import ServerReasoner

    if servers is None:
        raise PrerequisiteError("The reason stage asks a server and was given none.", "Run it through rvosbench run.")
    return Reason(settings, ServerReasoner(settings, servers.connect()))
