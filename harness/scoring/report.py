"""Scores, comparisons and problems for the terminal. Percent, one decimal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rvosbench.harness.results.schema import ConfidenceInterval, Published, Score
from rvosbench.harness.scoring.oddities import WARNING
from rvosbench.harness.scoring.predictions import Problem, Reading, summary_lines
from rvosbench.harness.scoring.submission import Submission

if TYPE_CHECKING:
    # pandas, which scoring processes must not carry in their memory.
    from rvosbench.harness.scoring.compare import Comparison

FLAGS = {
    "suspect": "suspect",
    "copied": "in another paper too, so who ran it is doubtful",
    "superseded": "replaced by its source since",
}
"""Flag of a published number -> words."""


def score_tables(scores: Sequence[Score]) -> Iterator[Table]:
    """Terminal tables of ``scores.json`` rows, one per dataset, subset and protocol, best first; 80 columns do.

    The tables keep the order of the rows, those over whole datasets first. Where a row reproduces a published number,
    that number and the difference to it have columns of their own.
    """
    groups: dict[tuple[str, bool, str, str], list[Score]] = {}
    for score in scores:
        place = f"{score.dataset}/{score.split}"
        groups.setdefault((place, score.subset != "all", score.subset, score.protocol), []).append(score)
    for (place, _, subset, protocol), rows in sorted(groups.items(), key=lambda group: group[0][1]):
        coverage = ", ".join(dict.fromkeys(row.coverage for row in rows if row.coverage))
        title = Text.assemble((place, "bold"), f" {subset}   ", (", ".join(filter(None, (protocol, coverage))), "dim"))
        beside = any(row.published is not None for row in rows)
        table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, pad_edge=False)
        table.padding = (0, 1, 0, 0) if beside else (0, 1)
        table.add_column("method", min_width=8 if beside else 12)
        table.add_column("LVLM", min_width=8 if beside else 10, overflow="fold")
        columns = ["J&F", "95% interval", *(("published", "diff.") if beside else ()), "J", "F", "scored"]
        for name in columns:
            table.add_column(name, justify="right", no_wrap=True)
        for row in sorted(rows, key=lambda row: -1.0 if row.J_and_F is None else row.J_and_F, reverse=True):
            cells = (
                row.method,
                row.lvlm or "",
                percent_text(row.J_and_F),
                interval_text(row.interval),
                *((published_text(row.published), difference_text(row.published)) if beside else ()),
                percent_text(row.J),
                percent_text(row.F),
                f"{row.counts.scored}/{row.counts.attempted}",
            )
            table.add_row(*map(Text, cells))
        yield table


def note_lines(scores: Sequence[Score]) -> Iterator[Text]:
    """What a reader must know of the scores, each note once with the rows it is of; warnings in red, first."""
    rows: dict[str, list[Score]] = {}
    for score in scores:
        for note in score.notes:
            rows.setdefault(note, []).append(score)
        if score.published is not None:
            for note in published_notes(score.published):
                rows.setdefault(note, []).append(score)
    several = len(scores) > 1
    for note, of in sorted(rows.items(), key=lambda entry: not entry[0].startswith(WARNING)):
        places = dict.fromkeys(
            f"{_name(score)}, {score.dataset}/{score.split} {score.subset} {score.protocol}" for score in of
        )
        where = f" ({'; '.join(places)})" if several and len(of) < len(scores) else ""
        yield Text(note + where, "bold red" if note.startswith(WARNING) else "")


def published_notes(published: Published) -> Iterator[str]:
    """What a reader must know of a published number and of the difference to it."""
    if published.why is not None:
        yield f"no difference to the published number: {published.why}"
    if published.flag is not None:
        yield f"the published number is {FLAGS[published.flag]}" + (f": {published.note}" if published.note else "")


def comparison_lines(comparisons: Sequence[Comparison]) -> Iterator[Text]:
    """Second minus first, in points: two lines per dataset and protocol."""
    for row in comparisons:
        a, b, gain = row.first, row.second, row.difference
        place = f" on {a.dataset}/{a.split}, {a.protocol}"
        yield Text.assemble((_name(a), "bold"), " -> ", (_name(b), "bold"), place)
        both = f"  J&F {percent_text(a.J_and_F)} -> {percent_text(b.J_and_F)}"
        if gain is None:
            style = "bold red" if row.other_ground_truth else ""
            yield Text.assemble(f"{both}; no difference: ", (row.why or "", style))
            continue
        interval = "(no interval)" if gain.interval is None else interval_text(gain.interval)
        yield Text(
            f"{both}: {100 * gain.J_and_F:+.1f} {interval}, J {100 * gain.J:+.1f}, F {100 * gain.F:+.1f}; "
            f"{gain.wins} wins, {gain.ties} ties, {gain.losses} losses in {gain.videos} videos"
            + (f"; {row.only_in_one} samples are in one run only" if row.only_in_one else "")
        )
        if row.unknown_ground_truth:
            yield Text(
                f"  The tables do not say whether {row.unknown_ground_truth} samples were scored against the same "
                "ground truth.",
                "bold red",
            )


def print_problems(problems: Sequence[Problem], complete: Path, console: Console) -> None:
    """One line per kind, and where the complete list is."""
    for line in summary_lines(problems):
        console.print(Text(line), soft_wrap=True)
    if len(problems) > 1:
        console.print(Text(f"The complete list: {complete}"), soft_wrap=True)


def print_reading(reading: Reading, console: Console) -> None:
    """How predictions were read, and what was ignored or interpreted."""
    console.print(Text(f"Read as {reading.layout}."), soft_wrap=True)
    for note in reading.notes:
        console.print(Text(note), soft_wrap=True)


def print_submission(archive: Submission, console: Console) -> None:
    """What was written, and which videos are not whole in it."""
    lines = [
        f"{archive.path}: {archive.files} masks, {archive.bytes} bytes, SHA-256 {archive.sha256}, {archive.coverage}"
    ]
    if archive.left_out:
        lines.append(f"Not in the archive, because they are not complete on disk: {', '.join(archive.left_out)}.")
    if archive.filled:
        lines.append(f"Filled in with empty masks: {', '.join(archive.filled)}.")
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def _name(score: Score) -> str:
    return f"{score.method} on {score.lvlm}" if score.lvlm else score.method


def published_text(published: Published | None) -> str:
    """The published J&F."""
    return "-" if published is None else percent_text(published.J_and_F)


def difference_text(published: Published | None) -> str:
    """Reproduced minus published J&F, in points."""
    return "-" if published is None or published.difference is None else f"{100 * published.difference:+.1f}"


def interval_text(interval: ConfidenceInterval | None) -> str:
    """The ends of an interval."""
    return "-" if interval is None else f"[{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def percent_text(value: float | None) -> str:
    """A fraction as percent."""
    return "-" if value is None else f"{100 * value:.1f}"
