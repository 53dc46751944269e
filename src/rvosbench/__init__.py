"""Benchmark and leaderboard harness for video reasoning segmentation.

The folders ``harness``, ``methods``, ``leaderboard``, ``datasets`` (here: ``cards``) and ``recipes`` lie at the top of
the repository; this package holds links to them, so that what is installed is one name, ``rvosbench``.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("rvosbench")
except PackageNotFoundError:
    # On the path without being installed.
    __version__ = "0+unknown"
