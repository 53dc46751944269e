"""Scores beside the published numbers that they reproduce.

A difference is given where both numbers are of one protocol; otherwise the row says why there is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from rvosbench.harness.data.cards import card_names, load_card
from rvosbench.harness.results.schema import Published, Score

if TYPE_CHECKING:
    from rvosbench.harness.published import PublishedLine

References = Mapping[tuple[str, str | None], "PublishedLine"]
"""The published line that a method on an LVLM reproduces, by their names in the rows."""


def with_published(scores: Iterable[Score], references: References) -> Iterator[Score]:
    """The rows, each with the published number that it reproduces, where one is named for it."""
    for score in scores:
        line = references.get((score.method, score.lvlm))
        yield score if line is None else replace(score, published=_beside(score, line))


def published_of(line: PublishedLine, dataset: str, split: str, subset: str, protocol: str | None = None) -> Published:
    """What is printed for a line; without numbers where nothing is.

    Args:
        dataset, split: the name of a card and its split.
        protocol: the one to prefer, where sources print numbers under several.
    """
    # Here, as few runs need it and it imports pandas.
    from rvosbench.harness.published import published_number

    found = published_number(line.method, line.lvlm, dataset_title(dataset), split, subset, protocol)
    if found is None:
        return Published(line.method, line.lvlm, why=f"no number of {line.method} on {line.lvlm} is published here")
    elsewhere = f"printed elsewhere: {found.elsewhere}" if found.elsewhere else ""
    return Published(
        line.method,
        line.lvlm,
        _fraction(found.J),
        _fraction(found.F),
        _fraction(found.J_and_F),
        protocol=found.protocol,
        run_by=found.run_by or None,
        flag=found.flag or None,
        note="; ".join(filter(None, (found.note, elsewhere))) or None,
    )


def dataset_title(name: str) -> str:
    """A card's title; a name without a card stays as it is."""
    # Names come from tables of others, so none of them is read as the path of a file.
    return load_card(name).title if name in card_names() else name


def _beside(score: Score, line: PublishedLine) -> Published:
    published = published_of(line, score.dataset, score.split, score.subset, score.protocol)
    why = published.why or _obstacle(score, published)
    if why is not None or score.J_and_F is None or published.J_and_F is None:
        return replace(published, why=why)
    return replace(published, difference=round(score.J_and_F - published.J_and_F, 6))


def _obstacle(score: Score, published: Published) -> str | None:
    """What stands in the way of a difference."""
    if score.J_and_F is None:
        return "the run has no number under this protocol"
    if published.J_and_F is None:
        return "no J&F is published"
    if published.protocol != score.protocol:
        return f"published under {_protocol(published)}, run under {score.protocol}"
    return None


def _protocol(published: Published) -> str:
    from rvosbench.harness.published import AS_PUBLISHED

    return "a protocol that is not stated" if published.protocol == AS_PUBLISHED else str(published.protocol)


def _fraction(percent: float | None) -> float | None:
    return None if percent is None else round(percent / 100, 6)
