"""The table for the terminal, as Markdown and as CSV. Published and reproduced numbers never share a cell."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rvosbench.methods.reproduce.cost import assumptions
from rvosbench.methods.reproduce.running import Job
from rvosbench.methods.reproduce.table import Cell, Column
from rvosbench.methods.reproduce.world import World

Triple = tuple[float, float, float]
MARKS = {"suspect": "?", "copied": "°"}
LEGEND = (
    "? the published number is suspect; ° it stands in another paper too, so who ran it is doubtful; * others ran it"
)
HEADINGS = ("method", "LVLM", "published", "reproduced", "95% interval", "difference", "scored", "note")
_SHORT = ("method", "LVLM", "published", "here", "95% interval", "diff.", "scored", "notes")
CSV_COLUMNS = (
    "method", "lvlm", "training", "dataset", "subset",
    "published_J_and_F", "published_J", "published_F", "published_protocol", "published_by", "published_flag",
    "published_elsewhere",
    "reproduced_J_and_F", "reproduced_J", "reproduced_F", "low", "high", "protocol", "coverage",
    "attempted", "scored", "failed", "missing",
    "difference_J_and_F", "difference_J", "difference_F", "why_not_reproduced", "notes", "run",
)  # fmt: skip


class Sheet:
    """One column of the published table: a benchmark or a subset of it, all lines that say anything of it."""

    def __init__(self, column: Column, cells: Sequence[Cell], notes: Notes, whole: bool) -> None:
        self.column = column
        self._whole = whole
        self.cells = [cell for cell in cells if cell.published is not None or cell.score is not None]
        self._notes = notes

    @property
    def heading(self) -> str:
        """Benchmark, protocols, how much of it was run."""
        protocols = [cell.score.protocol for cell in self.cells if cell.score is not None]
        protocols = protocols or [cell.published.protocol for cell in self.cells if cell.published is not None]
        coverage = [cell.score.coverage for cell in self.cells if cell.score is not None and cell.score.coverage]
        return f"{self.column.title} ({', '.join(dict.fromkeys([*protocols, *coverage]))})"

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Text under ``HEADINGS``: J&F, J and F where the sheet is whole, else J&F alone."""
        for cell in self.cells:
            starred = "*" if cell.published is not None and cell.published.run_by else ""
            mark = MARKS.get(cell.published.flag, "") if cell.published is not None else ""
            published = cell.published
            printed = None if published is None else (published.J_and_F, published.J, published.F)
            counts = cell.score.counts if cell.score is not None else None
            yield (
                cell.line.method + starred,
                cell.line.lvlm,
                self._number(printed) + mark,
                self._number(cell.reproduced),
                _interval(cell),
                self._number(cell.difference, sign="+"),
                f"{counts.scored}/{counts.attempted}" if counts is not None else "-",
                ", ".join(map(str, self._notes.of(cell, self._whole))),
            )

    def _number(self, values: Triple | None, sign: str = "") -> str:
        if values is None:
            return "-"
        return " / ".join(f"{value:{sign}.1f}" for value in (values if self._whole else values[:1]))


class Notes:
    """Numbers the notes of all cells, each text once, in the order of the table."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def of(self, cell: Cell, whole: bool) -> list[int]:
        """The numbers of a cell's notes; with those on what other sources print, where ``whole``."""
        texts = [*cell.notes, *([f"not reproduced: {cell.why}"] if cell.why else [])]
        if whole and cell.published is not None and cell.published.elsewhere:
            texts.append(f"printed elsewhere: {cell.published.elsewhere}")
        self.texts += [text for text in dict.fromkeys(texts) if text not in self.texts]
        return sorted(self.texts.index(text) + 1 for text in dict.fromkeys(texts))


def sheets(cells: Sequence[Cell], whole: bool) -> tuple[list[Sheet], Notes]:
    """A sheet for every column of the table, and the notes they count up."""
    notes = Notes()
    columns = dict.fromkeys(cell.column for cell in cells)
    pages = [Sheet(column, [cell for cell in cells if cell.column == column], notes, whole) for column in columns]
    return pages, notes


def tables(cells: Sequence[Cell], world: World) -> Iterator[Table | Text]:
    """For the terminal, 80 columns do: a table of J&F per column, then legend and notes."""
    pages, notes = sheets(cells, whole=False)
    for sheet in pages:
        title = Text(sheet.heading, "bold")
        table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for heading in _SHORT:
            words = heading in ("method", "LVLM", "notes")
            table.add_column(heading, justify="left" if words else "right", no_wrap=heading != "notes")
        for row in sheet.rows():
            table.add_row(*map(Text, row))
        yield table
    yield Text(f"J&F in percent, differences in points. {_explained(world)} J and F are in the files.")
    for number, note in enumerate(notes.texts, start=1):
        yield Text(f"{number:3}  {note}", "dim")


def show(parts: Iterable[Table | Text], console: Console) -> None:
    """Prints tables as wide as the terminal, and text as it is."""
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, Text))


def to_markdown(cells: Sequence[Cell], world: World) -> str:
    """The same as Markdown."""
    pages, notes = sheets(cells, whole=True)
    explained = f"J&F / J / F in percent, reproduced minus published in points. {_explained(world)}"
    out = [f"# {world.name}", "", _md(explained), ""]
    for sheet in pages:
        out += [f"## {_md(sheet.heading)}", "", _line(HEADINGS), f"|{'---|' * 2}{'---:|' * 5}---|"]
        out += [_line(map(_md, row)) for row in sheet.rows()]
        out.append("")
    out += [f"{number}. {_md(note)}" for number, note in enumerate(notes.texts, start=1)]
    return "\n".join(out) + "\n"


def to_csv(cells: Sequence[Cell]) -> str:
    """A row per cell; percent and points, two decimals where a run gave them."""
    file = io.StringIO()
    writer = csv.DictWriter(file, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for cell in cells:
        writer.writerow({name: _inert(value) for name, value in _record(cell).items()})
    return file.getvalue()


def plan_tables(jobs: Sequence[Job], world: World) -> Iterator[Table | Text]:
    """For the terminal: what would run, what is missing and how to get it, what it would cost."""
    if world.note:
        yield Text(world.note)
    missing = {piece.what: piece for job in jobs for piece in job.missing}
    runnable = [job for job in jobs if job.state != "published only"]
    benchmarks = dict.fromkeys(job.dataset for job in runnable)
    table = Table("method", "LVLM", *(_amount(name, runnable) for name in benchmarks), box=box.SIMPLE_HEAD)
    for line in dict.fromkeys(job.line for job in runnable):
        mine = {job.dataset: job for job in runnable if job.line == line}
        table.add_row(*map(Text, (line.method, line.lvlm, *(_state(mine[name], list(missing)) for name in benchmarks))))
    yield table
    for number, piece in enumerate(missing.values(), start=1):
        yield Text(f"{number:3}  {piece.problem} {piece.fix}", "yellow")
    for what, comes in {piece.what: piece.comes for job in jobs for piece in job.coming}.items():
        yield Text(f"Not here yet: {what}; {comes} when a run starts.")
    others = dict.fromkeys(job.line.method for job in jobs if job.state == "published only")
    yield Text(f"Published numbers only: {', '.join(others)}.")
    counts = {state: sum(job.state == state for job in jobs) for state in ("done", "to run", "missing")}
    yield Text(f"{counts['to run']} runs to do, {counts['done']} done, {counts['missing']} lack something.")
    if world.cost is not None:
        hours = sum(job.hours or 0.0 for job in jobs if job.state == "to run")
        lacking = sum(job.hours or 0.0 for job in jobs if job.state == "missing")
        yield Text(f"About {_hours(hours)} GPU-hours to do, {_hours(lacking)} more for what lacks something.")
        yield Text(assumptions(world.cost), "dim")


def _explained(world: World) -> str:
    return " ".join(filter(None, (f"{LEGEND}.", f"Note: {world.note}." if world.note else "")))


def _interval(cell: Cell) -> str:
    interval = cell.score.interval if cell.score is not None else None
    return "-" if interval is None else f"[{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _state(job: Job, missing: Sequence[str]) -> str:
    numbers = ", ".join(map(str, sorted(missing.index(piece.what) + 1 for piece in job.missing)))
    hours = f"{_hours(job.hours)} h" if job.hours is not None else ""
    return "; ".join(filter(None, (f"lacks {numbers}" if numbers else job.state, hours)))


def _amount(dataset: str, jobs: Sequence[Job]) -> str:
    """A heading: the benchmark and how much of it there is, or how much is assumed."""
    job = next(job for job in jobs if job.dataset == dataset)
    if job.size is None:
        return dataset
    assumed = any(piece.what == dataset for piece in (*job.missing, *job.coming))
    return f"{dataset}, {'about ' if assumed else ''}{job.size.samples:,} samples in {job.size.videos:,} videos"


def _hours(hours: float) -> str:
    return f"{hours:,.2f}" if hours < 1 else f"{hours:,.1f}" if hours < 100 else f"{hours:,.0f}"


def _record(cell: Cell) -> dict[str, str]:
    record = dict.fromkeys(CSV_COLUMNS, "")
    record |= {
        "method": cell.line.method,
        "lvlm": cell.line.lvlm,
        "training": cell.line.training,
        "dataset": cell.column.dataset,
        "subset": cell.column.subset,
        "why_not_reproduced": cell.why,
        "notes": "; ".join(cell.notes),
        "run": cell.result.run if cell.result is not None else "",
    }
    if (published := cell.published) is not None:
        record |= {
            "published_J_and_F": f"{published.J_and_F:.1f}",
            "published_J": f"{published.J:.1f}",
            "published_F": f"{published.F:.1f}",
            "published_protocol": published.protocol,
            "published_by": published.run_by or "authors",
            "published_flag": published.flag,
            "published_elsewhere": published.elsewhere,
        }
    if (score := cell.score) is not None:
        counts, interval = score.counts, score.interval
        record |= {"protocol": score.protocol, "coverage": score.coverage or ""}
        record |= {name: str(getattr(counts, name)) for name in ("attempted", "scored", "failed", "missing")}
        if interval is not None:
            record |= {"low": f"{100 * interval.low:.2f}", "high": f"{100 * interval.high:.2f}"}
    for kind, values in (("reproduced", cell.reproduced), ("difference", cell.difference)):
        if values is not None:
            record |= {
                f"{kind}_{name}": f"{value:.2f}" for name, value in zip(("J_and_F", "J", "F"), values, strict=True)
            }
    return record


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _md(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>|#!~&])", r"\\\1", " ".join(text.split()))


def _inert(value: str) -> str:
    """Text that a spreadsheet would run as a formula gets a leading apostrophe; numbers stay."""
    return f"'{value}" if re.match(r"[=+@\t\r]|-\D", value) else value
