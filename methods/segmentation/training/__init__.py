"""Training of a small SAM2 on the bundled world: ``python -m rvosbench.methods.segmentation.training OUT_FOLDER``."""
