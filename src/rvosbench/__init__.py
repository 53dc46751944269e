"""Benchmark and leaderboard harness for video reasoning segmentation.

The folders ``harness``, ``methods``, ``leaderboard``, ``datasets`` (here: ``cards``) and ``recipes`` lie at the top of
the repository; this package holds links to them, so that what is installed is one name, ``rvosbench``.
"""

__version__ = "0.1.0"
