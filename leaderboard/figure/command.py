"""``rvosbench figure``: writes the figure of one sample."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rvosbench.harness.errors import PrerequisiteError, SampleError


def figure(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR")],
    video: Annotated[str, typer.Option(help="As in samples.parquet.")],
    expression: Annotated[str, typer.Option(help="Its id within the video.")],
    target: Annotated[Path, typer.Option("--out", help="The PNG file to write.")],
    method: Annotated[str | None, typer.Option(help="The method's label; needed where a run has several.")] = None,
    lvlm: Annotated[str | None, typer.Option(help="As tables print it; needed where a method ran on several.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Needed where two datasets have the sample.")] = None,
    split: Annotated[str | None, typer.Option(help="Needed where two splits have the sample.")] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Where the frames are. Default: RVOSBENCH_DATA, then the recipe's.")
    ] = None,
    columns: Annotated[int, typer.Option(min=2, help="At most this many frames, evenly chosen.")] = 8,
) -> None:
    """Draw one sample: frames, maps, prompts, predicted masks and ground truth, as far as its artefacts hold them."""
    # Here, as every other command of rvosbench loads this file too.
    from rvosbench.harness.data.reader import open_dataset
    from rvosbench.harness.results.reader import read_run
    from rvosbench.leaderboard.figure.content import figure_content
    from rvosbench.leaderboard.figure.drawing import to_png
    from rvosbench.leaderboard.figure.samples import Wanted, find_sample
    from rvosbench.leaderboard.viewer import find_dataset

    if target.suffix.lower() != ".png":
        raise PrerequisiteError(f"--out {target} is not a PNG file.", "Example: --out figure.png")
    if not run_dir.is_dir():
        raise PrerequisiteError(f"There is no run folder at {run_dir}.", "rvosbench run prints where it writes.")
    run = read_run(run_dir)
    found = find_sample(run, Wanted(video, expression, dataset, split, method, lvlm))
    names = str(found.row["dataset"]), str(found.row["split"])
    opened = find_dataset(run, *names) if data_root is None else open_dataset(names[0], data_root, names[1])
    try:
        content = to_png(figure_content(found, opened, columns))
    except SampleError as error:
        raise PrerequisiteError(
            f"{found.name.capitalize()} cannot be drawn: {error}.", "Restore the file it names."
        ) from error
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    except OSError as error:
        raise PrerequisiteError(
            f"Cannot write {target}: {error.strerror}.", "Choose another file with --out."
        ) from error
    typer.echo(f"{target}: {len(content)} bytes")
