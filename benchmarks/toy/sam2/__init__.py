"""Training of a small SAM2 on the synthetic dataset: ``python -m toy.sam2 OUT_FOLDER``."""
