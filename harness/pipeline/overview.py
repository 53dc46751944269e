"""A survey of a recipe for the terminal: what would run, what is missing and how to get it, what it would cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from rvosbench.harness.costs import Size, assumptions
from rvosbench.harness.pipeline.parts import Part
from rvosbench.harness.recipes import Recipe
from rvosbench.harness.requirements import Requirement


def overview(parts: Sequence[Part], recipe: Recipe) -> Iterator[Table | Text]:
    """A line per method and LVLM, a column per dataset; then what is missing, each once, and GPU-hours."""
    datasets = list(dict.fromkeys(part.dataset for part in parts))
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("method", "LVLM"):
        table.add_column(name, overflow="fold")
    for dataset in datasets:
        first = next(part for part in parts if part.dataset == dataset)
        table.add_column(_heading(first))
    lines: dict[tuple[str, str], list[Part]] = {}
    for part in parts:
        lines.setdefault((part.method, part.lvlm or ""), []).append(part)
    for line, selected in lines.items():
        by_dataset = {part.dataset: part for part in selected}
        table.add_row(*map(Text, line), *(Text(_cell(by_dataset[name])) for name in datasets))
    yield table
    needed: dict[Requirement, None] = dict.fromkeys(need for part in parts for need in part.requirements)
    for need in needed:
        if need.status == "missing":
            yield Text(f"Missing {need.kind} ({need.name}): {need.detail} {need.fix}", "yellow")
    for need in needed:
        if need.status == "automatic":
            yield Text(f"Not here yet: {need.kind} ({need.name}); {need.detail} when a run starts.")
    counts = {state: sum(part.state == state for part in parts) for state in ("to run", "done", "missing")}
    yield Text(f"{counts['to run']} runs to do, {counts['done']} done, {counts['missing']} lack something.")
    yield from cost_lines(parts, recipe)


def cost_lines(parts: Sequence[Part], recipe: Recipe) -> Iterator[Text]:
    """GPU-hours in all, and the assumptions behind them; nothing where the recipe assumes nothing."""
    if recipe.cost is None:
        return
    unknown = sorted({part.title for part in parts if part.hours is None})
    texts = []
    for state, words in (("to run", "to do"), ("missing", "for what lacks something")):
        selected = [part.hours for part in parts if part.state == state and part.hours is not None]
        texts += [f"{hours_text(sum(selected))} {words}"] if selected else []
    if texts:
        yield Text(f"GPU-hours, estimated: {', '.join(texts)}.")
    if unknown:
        yield Text(f"No estimate for {', '.join(unknown)}.")
    yield Text(assumptions(recipe.cost), "dim")


def hours_text(hours: float) -> str:
    """Two digits or more that say something."""
    return f"{hours:,.2f}" if hours < 1 else f"{hours:,.1f}" if hours < 100 else f"{hours:,.0f}"


def _heading(part: Part) -> str:
    """The dataset and how much of it there is, or how much is assumed."""
    if part.size is None:
        return part.dataset.name
    data = next(need for need in part.requirements if need.kind == "data")
    return f"{part.dataset.name}, {'' if data.status == 'here' else 'about '}{_amount(part.size)}"


def _amount(size: Size) -> str:
    return f"{size.samples:,} samples in {size.videos:,} videos"


def _cell(part: Part) -> str:
    kinds = dict.fromkeys(need.kind for need in part.missing)
    state = f"lacks {', '.join(kinds)}" if kinds else part.state
    return state if part.hours is None else f"{state}; {hours_text(part.hours)} h"
