"""Trains the small checkpoints of the synthetic dataset: real model classes, synthetic training examples, nothing else.

    python -m toy.lvlm FAMILY FOLDER

Flow: clips -> training examples (questions with answers) -> inputs -> loop -> evaluation -> model card. Training
examples come from the train split of the shapes benchmark; the answers must be looked up in the image, so that
attention has to look at the right place.

Beside the answers one head in each layer of the upper half is taught to look at what is asked about
(``network.GLANCING``). Released models have such heads from billions of answers (Loc-Head finds three in a thousand);
the few answers of a small training leave attention on some object, not on the right one: without this, highest cells
lay on the target in 0.25 to 0.33 of held-out calls, and an object drawn at random would be right in 0.23; with it, and
with a tower that knows where objects are, in 0.58 to 0.78 (both Qwen) and 0.41 to 0.55 (InternVL3). All other heads,
and with them sinks and diluted means, are as training leaves them. No rolled-out map is supervised.
"""
