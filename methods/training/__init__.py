"""Trains the small checkpoints of the bundled world: real model classes, synthetic lessons, nothing else.

    python -m methods.training FAMILY FOLDER

Flow: clips -> lessons (questions with answers) -> inputs -> loop -> evaluation -> model card. Lessons come from the
train split of the shapes benchmark; the answers must be looked up in the picture, so that attention has to look at
the right place. No attention map is ever supervised.
"""
