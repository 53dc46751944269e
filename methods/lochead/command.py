"""``rvosbench calibrate lochead``: finds a model's localization heads and writes them to a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rvosbench.harness.errors import PrerequisiteError, nearest_name

if TYPE_CHECKING:
    from rvosbench.methods.lochead.heads import HeadFile
    from rvosbench.methods.lochead.pairs import Pairs
    from rvosbench.methods.lochead.settings import CalibrateSettings
    from rvosbench.methods.models.lvlm.family import Family


def calibrate(
    lvlm: Annotated[str, typer.Option(metavar="CHECKPOINT", help="Hub name or local folder.")],
    target: Annotated[Path, typer.Option("--out", help="The heads file to write (JSON).")],
    dataset: Annotated[str | None, typer.Option(help="A card's name: frames of its videos are the images.")] = None,
    data_root: Annotated[
        Path, typer.Option("--data-root", envvar="RVOSBENCH_DATA", help="Folder that holds davis17/, ReVOS/ ...")
    ] = Path("data"),
    split: Annotated[str | None, typer.Option(help="Default: the card's first split.")] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="Instead: a JSON-lines file of image and expression, e.g. RefCOCO's.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Pairs in a trial.")] = 1000,
    trials: Annotated[int, typer.Option(min=1, help="Frequencies are averaged over this many draws.")] = 5,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    variant: Annotated[str, typer.Option(help="paper, or the code's: released, first_release.")] = "paper",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="E.g. calibration.keep=1, lvlm.dtype=float32")
    ] = None,
) -> None:
    """Find a model's localization heads (Loc-Head) on pairs of images and expressions."""
    # Here, as every other command of rvosbench loads this file too.
    from rvosbench.methods.lochead.heads import write_heads
    from rvosbench.methods.models.lvlm.checkpoints import find as find_checkpoint
    from rvosbench.methods.models.lvlm.family import find_family

    if (dataset is None) == (pairs is None):
        raise PrerequisiteError("Give either --dataset or --pairs.", "Example: --dataset ref_davis17 --data-root data")
    if target.is_dir():
        raise PrerequisiteError(f"--out {target} is a folder.", "Give a file, e.g. --out heads/qwen2_5_vl.json")
    checkpoint = find_checkpoint(lvlm)
    family = find_family(checkpoint.family)
    counts = {"samples": samples, "trials": trials, "seed": seed}
    settings = read_settings(variant, family, counts, overrides or ())
    source = _source(dataset, data_root, split, pairs)
    found = _find(lvlm, checkpoint.digest, source, settings)
    write_heads(target, found)
    for line in report(found):
        typer.echo(line)
    typer.echo(f"Heads: {target}")


def read_settings(
    variant: str, family: Family, counts: dict[str, Any], overrides: list[str] | tuple[()]
) -> CalibrateSettings:
    """The settings of a variant, with what the command line says; a family that cuts frames into tiles is shown
    whole ones (DecAF, appendix C), unless ``lvlm.frame_scale`` is set.

    Raises:
        PrerequisiteError: an unknown variant, key or value.
    """
    from rvosbench.harness.recipes import apply_override, method_settings
    from rvosbench.methods.lochead.settings import VARIANTS, CalibrateSettings

    if variant not in VARIANTS:
        raise PrerequisiteError(f"There is no variant '{variant}'.", nearest_name(variant, VARIANTS))
    values: dict[str, Any] = {"calibration": {**VARIANTS[variant], **counts}, "lvlm": {}}
    if family.cuts_into_tiles:
        values["lvlm"]["frame_scale"] = 1
    for override in overrides:
        apply_override(values, override)
    return method_settings(CalibrateSettings, values, "lochead")


def report(found: HeadFile) -> list[str]:
    """What was found, line by line."""
    chosen = set(found.heads)
    lines = [f"{'head':>8} {'selected':>9} {'attention':>10}"]
    for entry in found.frequencies[: max(10, len(chosen))]:
        mark = " kept" if (entry.layer, entry.head) in chosen else ""
        name = f"L{entry.layer}H{entry.head}"
        lines.append(f"{name:>8} {entry.frequency:9.3f} {entry.attention_sum:10.3f}{mark}")
    counts = found.data["pairs_per_trial"]
    lines.append(f"{len(counts)} trials of {', '.join(map(str, sorted(set(counts))))} pairs.")
    if found.data["failed"]:
        lines.append(f"{found.data['failed']} pairs could not be used; the first: {found.data['failed_first']}.")
    requested = found.settings["calibration"]["samples"]
    if min(counts) < requested:
        lines.append(f"Fewer than {requested} pairs: there are {found.data['pairs_available']} expressions.")
    if len(chosen) < found.settings["calibration"]["keep"]:
        lines.append(f"Only {len(chosen)} heads were ever selected.")
    return lines


def _source(dataset: str | None, data_root: Path, split: str | None, pairs: Path | None) -> Pairs:
    from rvosbench.harness.data.reader import open_dataset
    from rvosbench.methods.lochead.pairs import DatasetPairs, ListedPairs

    if pairs is not None:
        return ListedPairs(pairs)
    if dataset is None:
        raise PrerequisiteError("Neither pairs nor a dataset are given.", "Give --pairs FILE or --dataset NAME.")
    opened = open_dataset(dataset, data_root, split)
    for note in opened.notes:
        typer.echo(note)
    return DatasetPairs(opened)


def _find(checkpoint: str, digest: str, source: Pairs, settings: CalibrateSettings) -> HeadFile:
    from rvosbench.harness.progress import SampleProgress
    from rvosbench.harness.text import SafeConsole
    from rvosbench.methods.lochead.head_search import draw, find
    from rvosbench.methods.models.lvlm.base import LvlmSettings
    from rvosbench.methods.models.lvlm.load import load_lvlm

    model = LvlmSettings(checkpoint=checkpoint, digest=digest, **vars(settings.lvlm))
    drawn = draw(source, settings)
    loaded = load_lvlm(model)
    with SampleProgress("reading heads", SafeConsole(stderr=True)) as progress:
        return find(loaded, model, source, drawn, settings, progress.update)
