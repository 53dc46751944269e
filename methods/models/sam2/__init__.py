"""SAM2: shared frame features, prompting, tracking, non-maximum suppression, tracklet scores."""
