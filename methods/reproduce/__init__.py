"""``rvosbench reproduce steerseg-table``: the main table of SteerSeg's project page, run again.

Its lines are those of the published numbers; which of them can be run, with which checkpoints, on which data, is a
*world*: a YAML file in ``recipes/reproduce/`` (shipped too), or one of the reader's own. Every line on every
dataset is an ordinary run, so the whole is resumed by giving the command again. Torch is imported by the runs alone.
"""

from __future__ import annotations

from rvosbench.methods.reproduce.command import steerseg_table

__all__ = ["steerseg_table"]
