"""``rvosbench picture``: one sheet that shows where a method looked and what it made of it.

Columns are keyframes; rows are the frame, the heat maps, the predicted mask and the ground truth. Drawing
(``painting``, ``sheet``) takes arrays and knows no method; ``rows`` reads artefacts, ``looks`` settings. No model is
loaded and torch is not imported.
"""

from __future__ import annotations

from rvosbench.methods.picture.command import picture

__all__ = ["picture"]
