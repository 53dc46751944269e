"""The bundled benchmark: generated videos of moving shapes with referring and reasoning expressions.

It proves the harness without downloads or weights. ``make_clip`` gives one video with masks and expressions;
``write_shapes`` writes a split in one of the official layouts.
"""

from rvosbench.harness.data.synthetic.clip import Clip, make_clip
from rvosbench.harness.data.synthetic.write import write_shapes

__all__ = ["Clip", "make_clip", "write_shapes"]
