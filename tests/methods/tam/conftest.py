"""Fixtures: small random checkpoints and a clip, made once."""

from small_lvlms import _own_cache, checkpoints, video

__all__ = ["_own_cache", "checkpoints", "video"]
