"""SteerSeg: attention steering for reasoning video segmentation (arXiv 2605.14908)."""
