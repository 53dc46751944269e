"""Artefacts of stages on disk, addressed by content."""
