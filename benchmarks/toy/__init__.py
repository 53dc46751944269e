"""Writers and trainers of the small checkpoints; none of it is installed."""
