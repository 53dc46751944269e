"""``python -m toy.lvlm FAMILY FOLDER``: trains a small checkpoint of a real class from scratch."""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import tempfile
import time
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from rvosbench.methods.models.lvlm.load import load_lvlm
from rvosbench.methods.models.lvlm.loading import resolve_device
from toy.lvlm.card import CARD, read_card, write_card
from toy.lvlm.evaluate import evaluate_checkpoint
from toy.lvlm.examples import VERSION, Example, examples
from toy.lvlm.inputs import buckets, training_settings
from toy.lvlm.loop import Schedule, train
from toy.lvlm.network import Learner, initialise
from toy.tiny_qwen import CORPUS, SmallShape, write_small

FAMILIES = ("qwen2_5_vl", "qwen2_vl", "llava_onevision", "internvl")
SHAPE = SmallShape(
    layers=6, hidden=192, heads=6, kv_heads=2, vision_depth=4, vision_hidden=128, vision_heads=4, patch=7,
    vocabulary=1280, tied=True, tile_patches=12, window=64,
)  # fmt: skip
"""About 3 million parameters. Qwen2.5-VL's windows take in a whole frame: its towers have no window layers."""
CORPUS_EXAMPLES = 60
"""Training examples whose words the tokenizer learns."""


def main() -> None:
    """Trains, evaluates on held-out clips, writes the checkpoint with its model card."""
    parser = argparse.ArgumentParser(prog="python -m toy.lvlm", description=__doc__)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("folder", type=Path, help="where the checkpoint goes")
    parser.add_argument("--clips", type=int, default=5000, help="of the train split")
    parser.add_argument("--look-steps", type=int, default=2000, help="that teach the vision tower")
    parser.add_argument("--read-steps", type=int, default=6000, help="that teach the language model")
    parser.add_argument("--seconds", type=float, help="end training so long after the start")
    parser.add_argument("--start", type=Path, help="go on from this checkpoint instead of from scratch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="processes that prepare the training examples"
    )
    parser.add_argument(
        "--lessons", type=Path, default=Path("data/lessons"), help="folder that keeps the training examples"
    )
    parser.add_argument(
        "--held-out",
        type=int,
        default=60,
        help="clips of the valid split to evaluate on; 0: evaluate later, with python -m toy.lvlm.evaluate",
    )
    given = parser.parse_args()
    if given.start and not all((given.start / name).is_file() for name in (CARD, "model.safetensors")):
        parser.error(f"--start {given.start} is no checkpoint with a card. Give a folder that this command wrote.")
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.backends.cuda.matmul.allow_tf32 = True
    device = resolve_device(given.device)
    began = time.monotonic()
    made = _made(given.start) if given.start else None

    def log(text: str) -> None:
        print(f"[{given.family} {time.monotonic() - began:.0f} s] {text}", flush=True)

    learned = examples(given.lessons, given.seed, given.clips, given.workers)
    log(f"{len(learned)} training examples")
    with tempfile.TemporaryDirectory() as scratch:
        start = given.start or write_small(
            given.family, Path(scratch) / given.family, given.seed, shape=_shape(learned)
        )
        shown = buckets(start, learned, given.workers)
        log(f"{sum(map(len, shown))} views in {len(shown)} layouts")
        del learned
        for bucket in shown:
            bucket.to(device)
        lvlm: Any = load_lvlm(training_settings(start, str(device)))
        if given.start is None:
            initialise(lvlm.model, given.seed)
        torch.manual_seed(given.seed)
        learner = Learner(lvlm).to(device)
        left = None if given.seconds is None else given.seconds - (time.monotonic() - began)
        schedule = Schedule(given.look_steps, given.read_steps, left, seed=given.seed)
        ended = train(learner, shown, schedule, log)
        del shown
        _save(lvlm, start, given.folder)
    write_card(
        given.folder,
        {
            "model_class": type(lvlm.model).__name__,
            "command": f"python -m toy.lvlm {given.family} {given.folder} --clips {given.clips} "
            f"--look-steps {ended.look_steps} --read-steps {ended.read_steps} --seed {given.seed}"
            + (f" --start {given.start}" if given.start else ""),
            "parameters": sum(parameter.numel() for parameter in lvlm.model.parameters()),
            **({"start": made} if made else {}),
            "seed": given.seed,
            "data": f"shapes dataset, train split, seed {given.seed}, {given.clips} clips, examples version {VERSION}",
            "schedule": asdict(schedule),
            "ended": {name: round(value, 4) for name, value in asdict(ended).items()},
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
            "torch": str(torch.__version__),
            "transformers": version("transformers"),
        },
    )
    if given.held_out:
        for line in evaluate_checkpoint(given.folder, given.seed, given.held_out, str(device)):
            log(line)
    log(f"written to {given.folder}")


def _shape(learned: list[Example]) -> SmallShape:
    """The sizes, with a tokenizer that knows the words of the training examples."""

    some = learned[:CORPUS_EXAMPLES]
    questions = [
        q
        for example in some
        for q in (*example.clip, *(q for queries in example.by_image for q in queries), *example.text)
    ]
    lines = sorted({line for q in questions for line in (*q.prompt.splitlines(), q.answer)})
    return replace(SHAPE, corpus=CORPUS + "\n".join(lines))


def _made(start: Path) -> dict[str, Any]:
    """How the checkpoint that training goes on from was made, and which one it is."""
    card = {name: value for name, value in read_card(start).items() if name != "quality"}
    return {**card, "weights_sha256": hashlib.sha256((start / "model.safetensors").read_bytes()).hexdigest()}


def _save(lvlm: Any, start: Path, folder: Path) -> None:
    """The start's files with the trained weights in bfloat16, as released ones are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in start.iterdir():
        if path.suffix in (".json", ".jinja", ".txt") and path.is_file() and start.resolve() != folder.resolve():
            shutil.copy(path, folder / path.name)
    tower = getattr(lvlm.model.model, "visual", None)
    if tower is not None:
        tower.config._attn_implementation = "sdpa"
    lvlm.model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)


if __name__ == "__main__":
    main()
