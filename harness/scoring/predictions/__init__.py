"""Reads predicted masks in the layouts that the field's tools write, and says how it read them.

Images (a folder or a zip or tar archive of PNGs):

* ``<video>/<expression>/<frame>.png``; video names may contain slashes;
* ``<source>_<video>_<object>/<exp_id>/<frame>.png`` (VideoLISA's and GLUS's ReasonVOS);
* ``anno_<k>/<video>/<frame>.png``, index maps by annotator, for ``refdavis17/anno4``;
* any of these below other folders, such as ``Annotations/``.

RLE (JSON, JSON lines, parquet, each possibly compressed): ``{video: {expression: masks}}`` with masks as a list in the
order of the metadata's frames, as a mapping from frame names, or as Sa2VA's ``results.json`` holds them; or records.

A file of another kind beside the masks is ignored. What fits no layout is refused with a guess at the cause.
"""

from rvosbench.harness.scoring.predictions.opening import open_predictions
from rvosbench.harness.scoring.predictions.problems import (
    KINDS,
    Absence,
    Kind,
    Problem,
    Strictness,
    Tolerance,
    summary_lines,
    summed_up,
    write_problems,
)
from rvosbench.harness.scoring.predictions.sources import Predictions, Reading, VideoMasks

__all__ = [
    "KINDS",
    "Absence",
    "Kind",
    "Predictions",
    "Problem",
    "Reading",
    "Strictness",
    "Tolerance",
    "VideoMasks",
    "open_predictions",
    "summary_lines",
    "summed_up",
    "write_problems",
]
