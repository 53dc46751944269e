"""Training of a small SAM2 on the bundled world: ``python -m toy.sam2 OUT_FOLDER``."""
