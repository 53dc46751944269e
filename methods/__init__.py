"""What is benchmarked. Methods import harness interfaces; harness imports no method by name."""
