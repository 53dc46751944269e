"""The figure of one sample: keyframes with what the stages' artefacts hold, the predicted masks and the ground truth.

Nothing here knows a method. ``samples`` finds the sample, ``maps`` reads artefacts, ``content`` puts rows together as
arrays and text, ``drawing`` draws them with matplotlib, ``command`` is ``rvosbench figure``.
"""
