"""rvosbench: the benchmark harness for video reasoning segmentation."""

__version__ = "0.1.0"
