"""Training of a small SAM2 on the bundled shapes world: ``python -m methods.segmentation.training OUT_FOLDER``."""
