"""How much memory ``rvosbench score`` takes at its peak, all its processes together, on real masks.

``benchmarks/scoring.py`` prints it. The masks are the OSVOS submission to DAVIS 2016 at 854x480 against its ground
truth, laid out as Ref-DAVIS17 with four expressions per video: 5,504 masks under both protocols. The resident memory of
the command and its workers is summed up every few milliseconds (pages that they share count for each). Linux only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

INTERVAL = 0.01
"""Seconds between two measurements."""
ANNOTATORS = 4


def lay_out(samples: Path, folder: Path) -> int:
    """Writes a data root and predictions below ``folder``; returns the number of masks to score."""
    videos = {}
    for source in sorted((samples / "davis16_val_gt").iterdir()):
        names = sorted(path.stem for path in source.glob("*.png"))
        truth = folder / "data/davis17/valid/Annotations" / source.name
        truth.mkdir(parents=True)
        for name in names:
            with Image.open(source / f"{name}.png") as image:
                Image.fromarray((np.asarray(image) != 0).astype(np.uint8)).save(truth / f"{name}.png")
        expressions = {str(number): {"exp": "the object", "obj_id": "1"} for number in range(ANNOTATORS)}
        videos[source.name] = {"frames": names, "expressions": expressions}
    metadata = folder / "data/davis17/meta_expressions/valid/meta_expressions.json"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(json.dumps({"videos": videos}))
    with zipfile.ZipFile(samples / "davis16_results/osvos.zip") as archive:
        for member in archive.namelist():
            video, _, name = member.rpartition("/")
            video = video.rpartition("/")[2]
            if video in videos and name.removesuffix(".png") in videos[video]["frames"]:
                for number in range(ANNOTATORS):
                    path = folder / "masks" / video / str(number) / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(archive.read(member))
    return ANNOTATORS * sum(len(entry["frames"]) for entry in videos.values())


def resident(pid: int) -> int:
    """Bytes of resident memory of a process and its descendants; those that end meanwhile count as none."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(resident(child) for child in children)


def peak_memory(samples: Path) -> str:
    """Scores the masks with the installed command in a process of its own; one line for the terminal.

    Raises:
        RuntimeError: the command failed; with what it printed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        masks = lay_out(samples, folder)
        command = [sys.executable, "-c", "from rvosbench.harness.cli import main; main()", "score"]
        command += [str(folder / "masks"), "--dataset", "ref_davis17", "--data-root", str(folder / "data")]
        command += ["--out", str(folder / "out")]
        printed = folder / "printed.txt"
        started, peak = time.perf_counter(), 0
        with printed.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
            while process.poll() is None:
                peak = max(peak, resident(process.pid))
                time.sleep(INTERVAL)
        seconds = time.perf_counter() - started
        if process.returncode:
            raise RuntimeError(printed.read_text())
    return f"Scoring {masks} masks of 854x480: {peak / 2**20:.0f} MB at the peak, {masks / seconds:.0f} masks/s"
