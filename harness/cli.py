"""The command line: thin. Each command reads its arguments, calls the library, prints, and sets the exit code.

Exit codes: 0 success, 2 prerequisite or usage error (one sentence and the fix), 3 finished with failed samples,
130 interrupted.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from contextlib import closing
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer
from rich.text import Text

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.extras import missing_package
from rvosbench.harness.secrets import redacted_text
from rvosbench.harness.text import SafeConsole

if TYPE_CHECKING:
    from rvosbench.harness.scoring.predictions import Strictness

COMMANDS_GROUP = "rvosbench.commands"
"""Entry points that add commands: the leaderboard's, and those of method packages. ``train.steerseg`` is the command
``train steerseg``."""
PLANS_GROUP = "rvosbench.plans"
"""Entry points for recipes of other kinds than a run: the name is a key that only such recipes have, the function takes
the file and the overrides and gives the lines of the plan."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Benchmark harness for video reasoning segmentation.",
)
_GROUP_HELP = {
    "train": "Train what a method needs.",
    "calibrate": "Find what a method reads off a model.",
    "reproduce": "Run a paper's table and set it beside the published numbers.",
}
datasets_app = typer.Typer(no_args_is_help=True, help="What is on disk, and whether it is complete.")
app.add_typer(datasets_app, name="datasets")

out = SafeConsole()
err = SafeConsole(stderr=True)

SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe value (dotted key).")
]
ReuseOption = Annotated[
    Literal["exact", "force"],
    typer.Option(help="force: also artefacts that were computed by other code or packages."),
]
DataRoot = Annotated[
    Path, typer.Option("--data-root", envvar="RVOSBENCH_DATA", help="Folder that holds davis17/, ReVOS/, mevis/ ...")
]
AbsentOption = Annotated[
    Literal["empty", "zero", "refuse"] | None,
    typer.Option(
        "--absent",
        help="What a mask without a file means: an empty mask, a score of 0, or a refusal. Default: refuse; lenient: 0 "
        "when scoring, an empty mask that is counted in an archive.",
    ),
]
Runs = Annotated[Path, typer.Option("--runs", envvar="RVOSBENCH_RUNS", help="Folder of run folders.")]


def _print_version(asked: bool) -> None:
    if asked:
        from rvosbench.harness.version import describe

        out.print(Text(describe()), soft_wrap=True)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None: ...


@app.command()
def run(
    recipe: Annotated[Path | None, typer.Argument(help="The recipe to run.")] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN_DIR", help="Continue an interrupted run.")] = None,
    overrides: SetOption = None,
    reuse: ReuseOption = "exact",
    allow: Annotated[
        list[str] | None, typer.Option(metavar="HOST", help="A machine that the recipe may send to or join.")
    ] = None,
) -> None:
    """Run methods x LVLMs x datasets; continues where an interrupted run of the same recipe stopped."""
    from rvosbench.harness.pipeline.engine import Run
    from rvosbench.harness.recipes import load_recipe
    from rvosbench.harness.results.writer import RunFolder
    from rvosbench.harness.trust import user_trust

    if recipe is None and resume is None:
        raise PrerequisiteError("Give a recipe or --resume RUN_DIR.", "Example: rvosbench run recipes/demo.yaml")
    if recipe is not None and resume is not None:
        raise PrerequisiteError("Give a recipe or --resume RUN_DIR, not both.", "A run folder has its recipe in it.")
    trust = user_trust().with_more(tuple(allow or ()))
    signal.signal(signal.SIGTERM, _interrupt)
    if resume is not None:
        if overrides:
            raise PrerequisiteError("--set cannot change a run that is resumed.", "Start a new run from a recipe.")
        folder, loaded = RunFolder.resume(resume)
    else:
        assert recipe is not None
        loaded = load_recipe(recipe, tuple(overrides or ()))
        trust.require(loaded, tuple(overrides or ()))
        folder = RunFolder.create(loaded)
    with closing(folder):
        trust.require(loaded, tuple(overrides or ()))
        code = Run(loaded, folder, out, reuse).execute()
    raise typer.Exit(code)


@app.command()
def plan(
    recipe: Annotated[Path, typer.Argument(help="The recipe of a run or of a training.")],
    overrides: SetOption = None,
    reuse: ReuseOption = "exact",
) -> None:
    """Say what a recipe would run or train: samples, what is reused, what is to compute, memory. Computes nothing."""
    from rvosbench.harness.pipeline.engine import print_plan
    from rvosbench.harness.recipes import load_recipe, read_values

    changes = tuple(overrides or ())
    keys = read_values(recipe, changes).keys()
    for entry in entry_points(group=PLANS_GROUP):
        if entry.name in keys:
            for line in entry.load()(recipe, changes):
                out.print(Text(line), soft_wrap=True)
            return
    loaded = load_recipe(recipe, changes)
    if loaded.cost is None and all(choice.synthetic is None for choice in loaded.datasets):
        print_plan(loaded, out, reuse)
        return
    from rvosbench.harness.pipeline.overview import cost_lines, overview
    from rvosbench.harness.pipeline.parts import survey

    parts = survey(loaded)
    needs = [need for part in parts for need in part.requirements]
    missing = next((need for need in needs if need.status == "missing"), None)
    # Samples and keys are not known before the data is there.
    if missing is not None or any(need.kind == "data" and need.status == "automatic" for need in needs):
        for shown in overview(parts, loaded):
            out.print(shown, soft_wrap=isinstance(shown, Text))
    else:
        print_plan(loaded, out, reuse)
        for line in cost_lines(parts, loaded):
            out.print(line, soft_wrap=True)
    if missing is not None:
        raise PrerequisiteError(missing.detail, missing.fix)


@app.command()
def methods() -> None:
    """List the registered methods."""
    from rvosbench.harness.registry import load_method, method_names

    for name in method_names():
        method = load_method(name)
        out.print(f"[bold]{name}[/bold]  {method.title}  {method.paper}", highlight=False)


@app.command()
def score(
    predictions: Annotated[Path, typer.Argument(help="A folder or archive of PNG masks, or an RLE file.")],
    dataset: Annotated[str, typer.Option(help="A card's name, e.g. ref_davis17.")],
    target: Annotated[Path, typer.Option("--out", help="Folder for the tables.")],
    data_root: DataRoot = Path("data"),
    split: Annotated[str | None, typer.Option(help="Default: the card's first split.")] = None,
    protocol: Annotated[list[str] | None, typer.Option(help="Default: the split's protocols in the card.")] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict/--lenient", help="Refuse incomplete predictions, or score what is unusable as 0 and count it."
        ),
    ] = True,
    absent: AbsentOption = None,
    label: Annotated[str | None, typer.Option(help="The method's name in the tables.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Default: one per core.")] = None,
) -> None:
    """Score masks that any tool wrote under named protocols. Needs no GPU and no torch."""
    from rvosbench.harness.data.reader import open_dataset
    from rvosbench.harness.progress import SampleProgress
    from rvosbench.harness.results.schema import read_scores
    from rvosbench.harness.scoring.outputs import require_output_folder
    from rvosbench.harness.scoring.predictions import write_problems
    from rvosbench.harness.scoring.report import note_lines, print_problems, print_reading, score_tables
    from rvosbench.harness.scoring.score import score_predictions

    require_output_folder(target)
    opened = open_dataset(dataset, data_root, split, needs="masks")
    with SampleProgress("scoring", err) as progress:
        report = score_predictions(
            predictions,
            opened,
            tuple(protocol or ()),
            out=target,
            strictness="strict" if strict else "lenient",
            absence=absent,
            label=label,
            workers=workers,
            progress=progress.update,
        )
    for note in report.notes:
        say(note)
    print_reading(report.reading, out)
    complete = target / "problems.txt"
    write_problems(report.problems, complete)
    print_problems(report.problems, complete, err)
    report.raise_if_refused()
    scores = read_scores(target / "scores.json")
    for table in score_tables(scores):
        out.print(table)
    for line in note_lines(scores):
        out.print(line, soft_wrap=True)
    say(f"Tables: {target}")
    raise typer.Exit(report.exit_code)


@app.command("export-submission")
def export_submission(
    source: Annotated[Path, typer.Argument(metavar="RUN_DIR|PREDICTIONS")],
    dataset: Annotated[str, typer.Option(help="ref_youtube_vos or mevis.")],
    target: Annotated[Path, typer.Option("--out", help="The archive to write.")],
    data_root: DataRoot = Path("data"),
    split: Annotated[str | None, typer.Option(help="Default: valid.")] = "valid",
    method: Annotated[str | None, typer.Option(help="Which method of a run; default: its only one.")] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict/--lenient",
            help="Refuse an incomplete split, or write what is there with empty masks for what is not.",
        ),
    ] = True,
    absent: AbsentOption = None,
) -> None:
    """Write and validate the archive a benchmark's server wants."""
    from rvosbench.harness.data.reader import open_dataset
    from rvosbench.harness.pipeline.exports import masks_of_run
    from rvosbench.harness.progress import SampleProgress
    from rvosbench.harness.scoring.outputs import require_output_file
    from rvosbench.harness.scoring.predictions import open_predictions, write_problems
    from rvosbench.harness.scoring.report import print_problems, print_reading, print_submission
    from rvosbench.harness.scoring.submission import export_submission as export

    require_output_file(target, ".zip")
    opened = open_dataset(dataset, data_root, split, needs="frames")
    for note in opened.notes:
        say(note)
    unexpected = []
    if (source / "recipe.yaml").is_file():
        masks = masks_of_run(source, opened, method)
    else:
        predictions = open_predictions(source, opened)
        print_reading(predictions.reading, out)
        masks, unexpected = predictions.of_video, predictions.unexpected()
    strictness: Strictness = "strict" if strict else "lenient"
    with SampleProgress("writing", err) as progress:
        archive = export(masks, opened, target, strictness=strictness, absence=absent, progress=progress.update)
    problems = (*archive.problems, *unexpected)
    complete = target.with_name(f"{target.name}.problems.txt")
    write_problems(problems, complete)
    print_problems(problems, complete, err)
    if not archive.files:
        raise PrerequisiteError(
            "The masks are not complete; no archive was written.",
            "Correct them, or use --lenient, which fills in empty masks; with --absent empty a mask without a file is "
            "an empty one.",
        )
    print_submission(archive, out)
    submit = opened.card.splits[opened.split].submit
    if submit is not None:
        say(f"Where to submit: {submit}")
    raise typer.Exit(archive.exit_code)


@app.command()
def compare(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A")],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B")],
    first: Annotated[str | None, typer.Option(help="Method of RUN_A; default: pairs of the same name.")] = None,
    second: Annotated[str | None, typer.Option(help="Method of RUN_B.")] = None,
) -> None:
    """Paired difference RUN_B minus RUN_A, with an interval over videos.

    Scores against different ground truth are printed without a difference, and the exit code is 2.
    """
    from rvosbench.harness.results.reader import read_run
    from rvosbench.harness.scoring.compare import compare as compare_runs
    from rvosbench.harness.scoring.report import comparison_lines, note_lines

    compared = compare_runs(read_run(run_a), read_run(run_b), first_label=first, second_label=second)
    for line in comparison_lines(compared):
        out.print(line, soft_wrap=True)
    for line in note_lines([score for row in compared for score in (row.first, row.second)]):
        out.print(line, soft_wrap=True)
    if any(row.other_ground_truth for row in compared):
        raise PrerequisiteError(
            "The two runs were scored against different ground truth, so there is no difference to report.",
            "Score both against the same data root; provenance in scores.json names each.",
        )


@app.command()
def sync(
    runs: Runs = Path("runs"),
    uri: Annotated[str | None, typer.Option(help="MLflow tracking URI; default: SQLite in the runs folder.")] = None,
) -> None:
    """Mirror into MLflow every run that is not there yet."""
    from rvosbench.harness.results.mlflow import MirrorFailure, default_uri
    from rvosbench.harness.results.mlflow import sync as mirror_all

    failed = 0
    for outcome in mirror_all(runs, uri or default_uri(runs)):
        if isinstance(outcome, MirrorFailure):
            failed += 1
            say(f"{outcome.folder}: not mirrored: {outcome.reason}")
        else:
            say(f"{outcome.folder}: {'mirrored' if outcome.changed else 'already there'}")
    if failed:
        raise PrerequisiteError(f"{failed} runs could not be mirrored.", "The reasons are above; runs are unharmed.")


@app.command()
def doctor(data_root: DataRoot = Path("data"), runs: Runs = Path("runs")) -> None:
    """Say what this machine has and lacks."""
    from rvosbench.harness.doctor import examine

    colours = {"ok": "green", "note": "yellow", "problem": "red"}
    problems = 0
    for finding in examine(data_root, runs):
        problems += finding.level == "problem"
        level = Text(f"{finding.level:8}", colours[finding.level])
        out.print(Text.assemble(level, f"{finding.subject:16}", finding.text), soft_wrap=True)
    if problems:
        raise typer.Exit(2)


@datasets_app.command("list")
def datasets_list(data_root: DataRoot = Path("data")) -> None:
    """Every split of every card, and how much of it is under the data root."""
    from rvosbench.harness.data.verify import describe, render_cards

    for line in render_cards(describe(data_root)):
        out.print(line, highlight=False, soft_wrap=True)


@datasets_app.command("verify")
def datasets_verify(
    name: Annotated[str, typer.Argument(help="A card's name, e.g. ref_davis17.")],
    data_root: DataRoot = Path("data"),
    split: Annotated[str | None, typer.Option(help="Default: the card's first split.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Decode every image and check every checksum.")] = False,
) -> None:
    """Check a split: what is present, complete, wrong, naming files."""
    from rvosbench.harness.data.verify import render, verify

    report = verify(name, data_root, split, mode="full" if full else "quick")
    for line in render(report):
        out.print(line, highlight=False, soft_wrap=True)
    if not report.ok:
        raise typer.Exit(2)


@datasets_app.command("fetch")
def datasets_fetch(
    name: Annotated[str, typer.Argument(help="A card's name, e.g. mevis, or the path of a card.")],
    data_root: DataRoot = Path("data"),
    split: Annotated[str | None, typer.Option(help="Default: the card's first split.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be fetched, and stop.")] = False,
) -> None:
    """Download a split from its owner's place, check it and unpack it; goes on where an earlier attempt stopped."""
    from rvosbench.harness.data.cards import load_card
    from rvosbench.harness.data.fetch import fetch, plan_fetch
    from rvosbench.harness.progress import SampleProgress

    card = load_card(name)
    plan = plan_fetch(card, split, data_root)
    for line in plan.lines():
        say(line)
    if dry_run:
        return
    if plan.done:
        say("It was fetched before.")
    else:
        with SampleProgress("bytes", err) as progress:
            fetch(plan, progress.update)
    datasets_verify(name, data_root, split)


@datasets_app.command("shapes")
def datasets_shapes(
    data_root: DataRoot = Path("data"),
    layout: Annotated[str, typer.Option(help="shapes, or an official layout: davis17, revos, mevis ...")] = "shapes",
    split: Annotated[str, typer.Option()] = "valid",
    seed: Annotated[int, typer.Option()] = 0,
    videos: Annotated[int, typer.Option(min=1)] = 20,
) -> None:
    """Generate the bundled benchmark: videos of moving shapes with referring and reasoning expressions."""
    from rvosbench.harness.data.synthetic import write_shapes

    say(str(write_shapes(data_root, layout=layout, split=split, seed=seed, videos=videos)))


def say(text: str) -> None:
    """One line to standard output, nothing in it interpreted."""
    out.print(Text(text), soft_wrap=True)


def _interrupt(signum: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


@cache
def _add_plugged_commands() -> None:
    groups: dict[str, typer.Typer] = {}
    for entry in sorted(entry_points(group=COMMANDS_GROUP), key=lambda entry: entry.name):
        group, dot, name = entry.name.partition(".")
        if dot and group not in groups:
            groups[group] = typer.Typer(no_args_is_help=True, help=_GROUP_HELP.get(group))
            app.add_typer(groups[group], name=group)
        target, name = (groups[group], name) if dot else (app, entry.name)
        try:
            target.command(name)(entry.load())
        except (ImportError, AttributeError) as error:
            # One package that cannot be loaded takes its own command down, not every other one with it.
            anything = {"allow_extra_args": True, "ignore_unknown_options": True}
            target.command(name, context_settings=anything, hidden=True)(_unavailable(entry, error))


def _unavailable(entry: EntryPoint, error: ImportError | AttributeError) -> Callable[[], None]:
    """The command of a package that cannot be loaded: it says so."""
    missing = missing_package(error) if isinstance(error, ModuleNotFoundError) else None
    problem = missing or PrerequisiteError(
        f"The command '{entry.name.replace('.', ' ')}' cannot be loaded: {error}.",
        f"Install the package that brings {entry.value} again.",
    )

    def unavailable() -> None:
        raise problem

    return unavailable


def _stop(error: PrerequisiteError) -> NoReturn:
    err.print(Text.assemble(("error: ", "bold red"), redacted_text(error.problem)), soft_wrap=True)
    if error.fix:
        err.print(Text(redacted_text(error.fix)), soft_wrap=True)
    sys.exit(2)


def main() -> None:
    """The ``rvosbench`` command."""
    try:
        _add_plugged_commands()
        app()
    except PrerequisiteError as error:
        _stop(error)
    except ModuleNotFoundError as error:
        missing = missing_package(error)
        if missing is None:
            raise
        _stop(missing)
    except KeyboardInterrupt:
        err.print("Interrupted.")
        sys.exit(130)
