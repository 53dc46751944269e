"""A published table beside what runs gave: printed number, reproduced number, difference, or why there is none.

One line per method and LVLM in a column per dataset and subset. For the terminal, as Markdown and as CSV.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from rvosbench.harness.published import PublishedLine, main_lines, published_subsets
from rvosbench.harness.results.schema import Published, Score
from rvosbench.harness.scoring.references import dataset_title, published_of
from rvosbench.harness.scoring.report import (
    difference_text,
    interval_text,
    percent_text,
    published_notes,
    published_text,
)
from rvosbench.harness.text import inert, markdown

MARKS = {"suspect": "?", "copied": "°", "superseded": "‡"}
_LEGEND = (
    "J&F in percent, differences in points. ? the published number is suspect; ° it stands in another paper too, so "
    "who ran it is doubtful; * others than the authors ran it."
)
_HEADINGS = ("method", "LVLM", "published", "here", "95% interval", "diff.", "scored", "notes")
_NUMBERS = ("J_and_F", "J", "F")
CSV_COLUMNS = (
    "method", "lvlm", "dataset", "split", "subset",
    "published_J_and_F", "published_J", "published_F", "published_protocol", "published_by", "published_flag",
    "published_note", "reproduced_J_and_F", "reproduced_J", "reproduced_F", "low", "high", "protocol", "coverage",
    "attempted", "scored", "failed", "missing", "difference_J_and_F", "difference_J", "difference_F", "why", "notes",
    "run",
)  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A benchmark, or a subset of it."""

    dataset: str
    """A card's name."""
    split: str
    subset: str

    @property
    def title(self) -> str:
        """For people."""
        title = dataset_title(self.dataset)
        return title if self.subset == "all" else f"{title} {self.subset}"


@dataclass(frozen=True)
class Attempt:
    """What came of one line on one dataset."""

    method: str
    """As the published table spells it, where it has the line."""
    lvlm: str
    dataset: str
    split: str
    reference: PublishedLine | None
    scores: tuple[Score, ...] = ()
    run: str = ""
    """The run folder's name."""
    why: str = ""
    """Why there are no scores."""


@dataclass(frozen=True)
class Cell:
    """A line in a column."""

    attempt: Attempt
    column: Column
    published: Published | None = None
    score: Score | None = None
    why: str = ""
    """Why there is no score; "" where there is one."""

    @property
    def differences(self) -> dict[str, float]:
        """Reproduced minus published J_and_F, J and F as fractions; empty where they are not compared."""
        if self.score is None or self.published is None or self.published.difference is None:
            return {}
        pairs = {name: (getattr(self.score, name), getattr(self.published, name)) for name in _NUMBERS}
        return {name: own - reference for name, (own, reference) in pairs.items() if None not in (own, reference)}

    def notes(self) -> list[str]:
        """What a reader must know of the numbers, one sentence each."""
        out = [*published_notes(self.published)] if self.published is not None else []
        out += self.score.notes if self.score is not None else ()
        return [*out, *([self.why] if self.why else [])]


def table_of(attempts: Sequence[Attempt]) -> tuple[Cell, ...]:
    """All cells: the lines of the main published table in its order, those that nothing reproduces too, then others.

    Args:
        attempts: of any number of lines and datasets.
    """
    places = dict.fromkeys((attempt.dataset, attempt.split) for attempt in attempts)
    by_line: dict[tuple[PublishedLine, str, str], list[Attempt]] = {}
    for attempt in attempts:
        line = attempt.reference or PublishedLine(attempt.method, attempt.lvlm)
        by_line.setdefault((line, attempt.dataset, attempt.split), []).append(attempt)
    lines = dict.fromkeys([*main_lines(), *(line for line, _, _ in by_line)])
    cells = []
    for dataset, split in places:
        subsets = dict.fromkeys(["all", *_subsets(attempts, dataset, split)])
        for column in (Column(dataset, split, subset) for subset in subsets):
            for line in lines:
                only = Attempt(line.method, line.lvlm, dataset, split, line, why="published number only")
                tried = by_line.get((line, dataset, split), [only])
                cells += [cell for cell in (_cell(attempt, column, attempt is only) for attempt in tried) if cell]
    return tuple(cells)


def tables(cells: Sequence[Cell], note: str | None) -> Iterator[Table | Text]:
    """For the terminal: a table of J&F per column, then the legend and the notes; 80 columns do."""
    notes = _Notes()
    for column, members in _columns(cells):
        title = Text(_heading(column, members), "bold")
        table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for name in _HEADINGS:
            words = name in ("method", "LVLM", "notes")
            table.add_column(name, justify="left" if words else "right", no_wrap=name != "notes")
        for cell in members:
            table.add_row(*map(Text, (*_texts(cell), notes.numbers(cell))))
        yield table
    yield Text(f"{_explained(note)} J and F are in the files.")
    for number, text in enumerate(notes.texts, start=1):
        yield Text(f"{number:3}  {text}", "dim")


def to_markdown(cells: Sequence[Cell], title: str, note: str | None) -> str:
    """The same as Markdown."""
    notes = _Notes()
    out = [f"# {markdown(title)}", "", markdown(_explained(note)), ""]
    for column, members in _columns(cells):
        out += [f"## {markdown(_heading(column, members))}", "", _line(_HEADINGS), f"|{'---|' * 2}{'---:|' * 5}---|"]
        out += [_line(map(markdown, (*_texts(cell), notes.numbers(cell)))) for cell in members]
        out.append("")
    out += [f"{number}. {markdown(text)}" for number, text in enumerate(notes.texts, start=1)]
    return "\n".join(out) + "\n"


def to_csv(cells: Sequence[Cell]) -> str:
    """A row per cell; percent and points with two decimals."""
    file = io.StringIO()
    writer = csv.DictWriter(file, CSV_COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    for cell in cells:
        writer.writerow({name: inert(value) for name, value in _record(cell).items()})
    return file.getvalue()


class _Notes:
    """Numbers the notes of all cells, each text once, in the order of the table."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def numbers(self, cell: Cell) -> str:
        texts = list(dict.fromkeys(cell.notes()))
        self.texts += [text for text in texts if text not in self.texts]
        return ", ".join(str(number) for number in sorted(self.texts.index(text) + 1 for text in texts))


def _explained(note: str | None) -> str:
    return f"{_LEGEND} Note: {note}." if note else _LEGEND


def _subsets(attempts: Sequence[Attempt], dataset: str, split: str) -> Iterator[str]:
    """Subsets that are scored or published, "all" aside."""
    for attempt in attempts:
        if (attempt.dataset, attempt.split) == (dataset, split):
            yield from (score.subset for score in attempt.scores)
    yield from published_subsets(dataset_title(dataset), split)


def _cell(attempt: Attempt, column: Column, published_only: bool) -> Cell | None:
    """None where nothing is known of the line in this column."""
    members = [score for score in attempt.scores if score.subset == column.subset]
    compared = [score for score in members if score.published is not None and score.published.difference is not None]
    score = next(iter([*compared, *members]), None)
    published = score.published if score is not None else None
    if published is None and attempt.reference is not None:
        published = published_of(attempt.reference, column.dataset, column.split, column.subset)
    printed = published is not None and published.protocol is not None
    if score is None and not printed and (published_only or column.subset != "all"):
        return None
    why = attempt.why
    if score is None and not why:
        why = f"the run has no score of the subset '{column.subset}'"
    return Cell(attempt, column, published, score, why)


def _columns(cells: Sequence[Cell]) -> Iterator[tuple[Column, list[Cell]]]:
    for column in dict.fromkeys(cell.column for cell in cells):
        yield column, [cell for cell in cells if cell.column == column]


def _heading(column: Column, cells: Sequence[Cell]) -> str:
    """Benchmark, protocols, how much of it was run."""
    scores = [cell.score for cell in cells if cell.score is not None]
    protocols = [score.protocol for score in scores] or [
        cell.published.protocol for cell in cells if cell.published is not None and cell.published.protocol
    ]
    coverage = [score.coverage for score in scores if score.coverage]
    return f"{column.title} ({', '.join(dict.fromkeys([*protocols, *coverage]))})"


def _texts(cell: Cell) -> tuple[str, ...]:
    published, score = cell.published, cell.score
    starred = "*" if published is not None and published.run_by else ""
    mark = MARKS.get(published.flag or "", "") if published is not None else ""
    return (
        cell.attempt.method + starred,
        cell.attempt.lvlm,
        published_text(published) + mark,
        percent_text(score.J_and_F if score is not None else None),
        interval_text(score.interval if score is not None else None),
        difference_text(published),
        f"{score.counts.scored}/{score.counts.attempted}" if score is not None else "-",
    )


def _record(cell: Cell) -> dict[str, str]:
    attempt, column, published, score = cell.attempt, cell.column, cell.published, cell.score
    record = {"method": attempt.method, "lvlm": attempt.lvlm, "dataset": dataset_title(column.dataset)}
    record |= {"split": column.split, "subset": column.subset, "why": cell.why}
    if published is not None and published.protocol is not None:
        record |= _percents("published", {name: getattr(published, name) for name in _NUMBERS})
        record |= {"published_protocol": published.protocol, "published_by": published.run_by or "authors"}
        record |= {"published_flag": published.flag or "", "published_note": published.note or ""}
    if score is not None:
        counts, interval = score.counts, score.interval
        record |= _percents("reproduced", {name: getattr(score, name) for name in _NUMBERS})
        record |= {"protocol": score.protocol, "coverage": score.coverage or "", "run": attempt.run}
        record |= {name: str(getattr(counts, name)) for name in ("attempted", "scored", "failed", "missing")}
        if interval is not None:
            record |= {"low": f"{100 * interval.low:.2f}", "high": f"{100 * interval.high:.2f}"}
        record["why"] = cell.why or (published.why if published is not None else None) or ""
        record["notes"] = "; ".join(score.notes)
    return record | _percents("difference", cell.differences)


def _percents(kind: str, values: Mapping[str, float | None]) -> dict[str, str]:
    return {f"{kind}_{name}": f"{100 * value:.2f}" for name, value in values.items() if value is not None}


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
