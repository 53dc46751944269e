"""``python -m toy.sam2 OUT_FOLDER``: trains a small SAM2 on the bundled train split.

The folder is a checkpoint as ``sam2.checkpoint`` takes it, with a model card beside it. ``python -m
toy.sam2.evaluate OUT_FOLDER`` measures it on the valid split; its card gets the result.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from contextlib import closing
from pathlib import Path

DATA_SEED = 0
"""Of the synthetic dataset; the demo's valid split has the same seed and other clips."""


def main(arguments: list[str] | None = None) -> None:
    """Parses the command line, trains, and prints a line now and then."""
    parser = argparse.ArgumentParser(prog="python -m toy.sam2", description=__doc__)
    parser.add_argument("folder", type=Path)
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--steps", type=int, help="updates; equal seeds give equal runs")
    length.add_argument("--seconds", type=float, help="time to train, start-up not counted")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<n>")
    parser.add_argument("--clips", type=int, default=1200, help="of the train split")
    parser.add_argument("--batch", type=int, default=1536, help="objects times frames of an update, at most")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--workers", type=int, default=6, help="processes that render clips")
    given = parser.parse_args(arguments)
    # Rendering processes import this module again: what is heavy is imported by the trainer alone.
    from rvosbench.harness.data.synthetic.write import VERSION
    from rvosbench.harness.errors import PrerequisiteError
    from toy.sam2.architecture import IMAGE_SIZE
    from toy.sam2.card import Card
    from toy.sam2.loop import Plan, train
    from toy.sam2.rendering import rendered_clips

    try:
        plan = Plan(
            given.folder, given.seed, given.steps, given.seconds, given.clips, given.batch, given.learning_rate,
            device=given.device,
        )  # fmt: skip
        card = Card(
            seed=plan.seed,
            data_seed=DATA_SEED,
            data_version=VERSION,
            device=_device_name(given.device),
            batch=plan.batch,
            learning_rate=plan.learning_rate,
        )
        # Ended from outside, the run still writes its checkpoint and ends its rendering processes; a second signal
        # does not wait for the step to end.
        ended = threading.Event()

        def end(*_: object) -> None:
            if ended.is_set():
                sys.exit(128 + signal.SIGTERM)
            ended.set()

        signal.signal(signal.SIGTERM, end)
        with closing(rendered_clips(DATA_SEED, "train", IMAGE_SIZE, plan.clips, given.workers)) as clips:
            print(train(plan, clips, card, report=lambda line: print(line, flush=True), stopped=ended.is_set))
        if ended.is_set():
            sys.exit(128 + signal.SIGTERM)
    except PrerequisiteError as error:
        sys.exit(str(error))


def _device_name(setting: str) -> str:
    import torch

    from rvosbench.methods.models.sam2.model import choose_device

    device = choose_device(setting)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


if __name__ == "__main__":
    main()
