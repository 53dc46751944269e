"""``rvosbench picture``: writes the sheet of one sample."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated

import typer

from rvosbench.harness.data.types import FrameHW3
from rvosbench.harness.errors import PrerequisiteError, SampleError


def picture(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR")],
    video: Annotated[str, typer.Option(help="As in samples.parquet.")],
    expression: Annotated[str, typer.Option(help="Its id within the video.")],
    target: Annotated[Path, typer.Option("--out", help="The PNG file to write.")],
    method: Annotated[str | None, typer.Option(help="The method's label; needed where a run has several.")] = None,
    lvlm: Annotated[str | None, typer.Option(help="As tables print it; needed where a method ran on several.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Needed where two datasets have the sample.")] = None,
    split: Annotated[str | None, typer.Option(help="Needed where two splits have the sample.")] = None,
    data_root: Annotated[Path | None, typer.Option(help="Where the frames are. Default: the recipe's.")] = None,
    columns: Annotated[int, typer.Option(min=2, help="At most this many keyframes, evenly chosen.")] = 8,
) -> None:
    """Draw where a method looked: frames, attention maps, prompts, masks and ground truth of one sample."""
    # Here, as every other command of rvosbench loads this file too.
    from rvosbench.harness.results.reader import read_run
    from rvosbench.methods.picture.rows import sample_sheet
    from rvosbench.methods.picture.samples import Wanted, find_sample

    if target.suffix.lower() != ".png":
        raise PrerequisiteError(f"--out {target} is not a PNG file.", "Example: --out sheet.png")
    if not run_dir.is_dir():
        raise PrerequisiteError(f"There is no run folder at {run_dir}.", "rvosbench run prints where it writes.")
    found = find_sample(read_run(run_dir), Wanted(video, expression, dataset, split, method, lvlm))
    try:
        sheet = sample_sheet(found, data_root, columns)
    except SampleError as error:
        raise PrerequisiteError(f"{found.name.capitalize()} cannot be drawn: {error}.") from error
    write_png(sheet, target)
    typer.echo(f"{target}: {sheet.shape[1]}x{sheet.shape[0]} pixels")


def write_png(picture_HW3: FrameHW3, path: Path) -> None:
    """Writes an image, and the folder it goes to.

    Raises:
        PrerequisiteError: the disk refuses.
    """
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(picture_HW3).save(content, format="PNG")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.getvalue())
    except OSError as error:
        raise PrerequisiteError(f"Cannot write {path}: {error.strerror}.", "Choose another file with --out.") from error
