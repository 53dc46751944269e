"""Loc-Head: localization heads (arXiv 2503.06287)."""
