"""Compares what lies under a data root with a card: present, complete, wrong.

Quick mode reads names, metadata and image headers. Full mode decodes every frame and mask and hashes the files
whose checksum is published.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape

from rvosbench.harness.data.cards import Card, Expected, card_names, load_card
from rvosbench.harness.data.checks import (
    Finding,
    Level,
    Mode,
    check_checksums,
    check_contents,
    check_expressions,
    check_frames,
    check_masks,
    check_same_masks,
)
from rvosbench.harness.data.ground_truth import DiskGroundTruth
from rvosbench.harness.data.layouts import Located, candidates, is_folder, locate
from rvosbench.harness.data.reader import list_videos, open_dataset, unnamed
from rvosbench.harness.data.types import Video
from rvosbench.harness.errors import PrerequisiteError

SHOWN = 3
"""Files shown under a finding; the report holds all of them."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What the metadata under the root lists."""

    videos: int
    objects: int | None
    """Distinct (video, target); None where targets are hidden or do not stand for objects."""
    expressions: int
    frames: int
    pairs: int
    """(expression, frame) pairs."""


@dataclass(frozen=True)
class Report:
    """The result of ``verify``."""

    dataset: str
    title: str
    split: str
    layout: str
    metadata: Path
    mode: Mode
    found: Counts
    expected: Expected | None
    protocols: tuple[str, ...]
    """Those that the data can be scored under here; empty: none."""
    findings: tuple[Finding, ...]
    submit: str | None = None
    """Where a split without masks here is scored; None where nowhere is known."""
    known_defects: tuple[str, ...] = ()
    """What the card knows to be wrong with, or easily misread in, the data as released."""

    @property
    def ok(self) -> bool:
        """No error was found; part of a benchmark may be ok."""
        return not any(finding.level == "error" for finding in self.findings)

    @property
    def complete(self) -> bool:
        """Every video, frame and mask the card expects is there."""
        partial = {"absent_frames", "absent_masks", "fewer_videos", "no_frames", "no_masks"}
        return self.ok and not any(finding.kind in partial for finding in self.findings)


@dataclass(frozen=True, slots=True)
class SplitStatus:
    """A split of a card, and how much of it is under the data root."""

    dataset: str
    title: str
    split: str
    ground_truth: str
    protocols: tuple[str, ...]
    expected: Expected | None
    state: str
    """E.g. "5 of 30 videos", "masks only", "absent", "no data root", or what is wrong with the files."""
    layout: str | None
    defects: int = 0
    """Known defects of data that is there; `verify` prints them."""


def verify(name: str, data_root: Path, split: str | None = None, *, mode: Mode = "quick") -> Report:
    """Checks one split.

    Raises:
        PrerequisiteError: unknown name or split, nothing of it is under the root, or the metadata is malformed.
    """
    card = load_card(name)
    split, facts = card.split(split)
    located = _locate_any(card, split, data_root)
    listing = list_videos(card, split, located)
    videos, truth = listing.videos, listing.ground_truth
    found = _counts(located, videos)
    findings = [*_compare(facts.expected, found)]
    if located.frames is None:
        findings.append(Finding("warning", "no_frames", "No folder of frames is there, only metadata."))
    else:
        findings += check_frames(located.frames, videos, mode)
    if truth is not None:
        findings += check_masks(truth, videos)
        findings += check_contents(truth, videos, mode)
    scored = truth is not None and any(truth.absence(video) is None for video in videos)
    if listing.unnamed_masks is not None:
        message = unnamed(listing.unnamed_masks, located.metadata)
        findings.append(Finding("warning", "unnamed_masks", message, (str(listing.unnamed_masks),)))
    if not scored and facts.ground_truth == "public":
        findings.append(Finding("error", "no_masks", "No video has its masks on disk, so nothing can be scored."))
    findings += check_expressions(card, facts, located.layout, videos)
    if mode == "full":
        findings += check_checksums(located.folder, facts)
        if truth is not None:
            findings += _cross_check(card, split, data_root, located, videos, truth)
    defects = [
        defect.text + (f" ({count} of {len(videos)} videos here)" if defect.videos else "")
        for defect, count in card.defects(split, [video.name for video in videos])
    ]
    protocols = facts.protocols if facts.ground_truth == "public" else facts.local_protocols
    return Report(
        dataset=card.name,
        title=card.title,
        split=split,
        layout=located.layout.name,
        metadata=located.metadata,
        mode=mode,
        found=found,
        expected=facts.expected,
        protocols=protocols if scored else (),
        findings=tuple(findings),
        submit=facts.submit,
        known_defects=tuple(defects),
    )


def render(report: Report) -> list[str]:
    """The report as lines of rich markup."""
    state = "complete" if report.complete else ("ok, but not complete" if report.ok else "has errors")
    colour = "green" if report.complete else ("yellow" if report.ok else "red")
    protocols = ", ".join(report.protocols)
    lines = [
        f"[bold]{escape(report.title)}[/bold] {report.split}: [{colour}]{state}[/{colour}] ({report.mode} check)",
        f"  layout {escape(report.layout)}, {escape(str(report.metadata))}",
        f"  {_numbers(report.found)}" + (f"; the card expects {_numbers(report.expected)}" if report.expected else ""),
        f"  scored here under {escape(protocols)}" if protocols else f"  not scored here{_elsewhere(report)}",
    ]
    colours = {"error": "red", "warning": "yellow", "note": "dim"}
    for finding in report.findings:
        colour = colours[finding.level]
        lines.append(f"  [{colour}]{finding.level}[/{colour}] {escape(finding.message)}")
        if any(about not in finding.message for about in finding.about):
            lines += [f"    {escape(line)}" for line in finding.about[:SHOWN]]
            if len(finding.about) > SHOWN:
                lines.append(f"    and {len(finding.about) - SHOWN} more")
    lines += [f"  [dim]known defect[/dim] {escape(defect)}" for defect in report.known_defects]
    return lines


def _elsewhere(report: Report) -> str:
    return f"; its server: {escape(report.submit)}" if report.submit else ""


def describe(data_root: Path | None) -> tuple[SplitStatus, ...]:
    """Every split of every card that ships, and how much of it is under the root."""
    return tuple(_status(card, split, data_root) for card in map(load_card, card_names()) for split in card.splits)


def render_cards(statuses: tuple[SplitStatus, ...]) -> list[str]:
    """``describe`` as lines of rich markup, one per split."""
    lines = []
    for status in statuses:
        protocols = ", ".join(status.protocols) or "no protocol"
        expected = _numbers(status.expected) if status.expected else "counts unknown"
        there = status.layout is not None
        colour = "green" if there else "dim"
        lines.append(
            f"[bold]{escape(status.dataset)}[/bold] {escape(status.split)}: {escape(protocols)}; {expected}; "
            f"ground truth {status.ground_truth}; [{colour}]{escape(status.state)}[/{colour}]"
            + (f" ({escape(status.layout)})" if status.layout else "")
            + (f"; {status.defects} known defects (datasets verify)" if status.defects else "")
        )
    return lines


def _locate_any(card: Card, split: str, data_root: Path) -> Located:
    try:
        return locate(card, split, data_root, "frames")
    except PrerequisiteError:
        found = candidates(card, split, data_root)
        if not found:
            raise
        return next((candidate for candidate in found if candidate.masks is not None), found[0])


def _counts(located: Located, videos: tuple[Video, ...]) -> Counts:
    masks = located.layout.masks
    objects = None
    if masks is not None and masks.key != "running_counter":
        objects = len({(v.name, target) for v in videos for e in v.expressions for target in e.targets})
    return Counts(
        videos=len(videos),
        objects=objects,
        expressions=sum(len(video.expressions) for video in videos),
        frames=sum(len(video.frames) for video in videos),
        pairs=sum(len(video.frames) * len(video.expressions) for video in videos),
    )


def _compare(expected: Expected | None, found: Counts) -> Iterator[Finding]:
    if expected is None:
        return
    if expected.videos is not None and found.videos < expected.videos:
        yield Finding("note", "fewer_videos", f"The metadata lists {found.videos} of {expected.videos} videos.")
        return
    for what in ("videos", "objects", "expressions", "frames", "pairs"):
        want, have = getattr(expected, what), getattr(found, what)
        if want is not None and have is not None and want != have:
            # A number nobody has counted is not held against the data.
            level: Level = "error" if expected.confidence == "verified" else "warning"
            message = f"The metadata has {have} {what}, the card expects {want} ({expected.confidence})."
            yield Finding(level, "count", message)


def _cross_check(
    card: Card, split: str, data_root: Path, located: Located, videos: tuple[Video, ...], truth: DiskGroundTruth
) -> Iterator[Finding]:
    for other in candidates(card, split, data_root):
        if other.masks is None or other.masks == located.masks or other.folder != located.folder:
            continue
        listing = list_videos(card, split, other)
        if listing.ground_truth is not None:
            yield from check_same_masks(truth, videos, listing.ground_truth, listing.videos)


def _status(card: Card, split: str, data_root: Path | None) -> SplitStatus:
    facts = card.splits[split]
    protocols, ground_truth, layout, defects = facts.protocols, str(facts.ground_truth), None, 0
    if data_root is None or not is_folder(data_root):
        state = "no data root"
    elif not candidates(card, split, data_root):
        state = "absent"
    else:
        defects = len([defect for defect in card.known_defects if not defect.splits or split in defect.splits])
        try:
            dataset = open_dataset(card.source, data_root, split)
        except PrerequisiteError as error:
            located = _locate_any(card, split, data_root)
            state = "masks only" if located.masks is not None and located.frames is None else error.problem
        else:
            state, layout, protocols = dataset.coverage, dataset.layout, dataset.protocols
            if dataset.ground_truth is not None and facts.ground_truth == "hidden":
                ground_truth = "hidden, but on disk"
            if dataset.ground_truth is None and facts.ground_truth == "public":
                state += ", no masks"
    return SplitStatus(card.name, card.title, split, ground_truth, protocols, facts.expected, state, layout, defects)


def _numbers(counts: Counts | Expected) -> str:
    parts = [(counts.videos, "videos"), (counts.objects, "objects"), (counts.expressions, "expressions")]
    parts += [(counts.frames, "frames"), (counts.pairs, "pairs")]
    return ", ".join(f"{number:,} {what}" for number, what in parts if number is not None)
