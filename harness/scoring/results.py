"""What is known of a sample after scoring, and the tables made of it.

``samples.parquet`` has a row per sample, ``frames.parquet`` a row per scored frame, ``scores.json`` a row per method,
dataset, subset and protocol. ``rvosbench run`` and ``rvosbench score`` write the same files through here. The same
results give the same bytes.

Shape legend: T frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rvosbench.harness.data.cards import KEPT, Card
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.results.schema import scores_file
from rvosbench.harness.scoring.kernel import f, j
from rvosbench.harness.scoring.provenance import Origin
from rvosbench.harness.scoring.references import References, with_published
from rvosbench.harness.scoring.rows import RecordedPairs, score_rows
from rvosbench.harness.scoring.sample import SampleResult, ScoredDataset
from rvosbench.harness.store.artefacts import atomic_write, write_json

__all__ = ["STAGES", "SampleResult", "ScoredDataset", "write_tables"]

STAGES = ("reason", "ground", "segment", "score")
"""Stages that the tables always have columns for; those of a method's own follow."""
_INTEGERS = ("I", "U", "n_gt", "n_pred", "m_gt", "m_pred")
_SAMPLE_FIELDS = (
    [(name, pa.string()) for name in ("method", "lvlm", "dataset", "split", "video", "expression", "text", "subset")]
    + [("status", pa.string())]
    + [(name, pa.float64()) for name in ("J", "F", "J_and_F")]
    + [("num_frames", pa.int64())]
)
_FRAME_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("method", "lvlm", "dataset", "split", "video", "expression", "frame")]
    + [(name, pa.int64()) for name in _INTEGERS]
    + [("J", pa.float64()), ("F", pa.float64())]
)


def write_tables(
    folder: Path,
    results: Sequence[SampleResult],
    datasets: Sequence[ScoredDataset],
    *,
    pairs: RecordedPairs | None = None,
    origin: Origin | None = None,
    references: References | None = None,
) -> list[dict[str, Any]]:
    """Writes the three tables, each complete or not at all, ``scores.json`` last. Returns the rows of the latter.

    Args:
        results: of any number of methods on any of the datasets; rows keep this order.
        pairs: of the protocols that need all masks of a video at once (``refdavis17/anno4``). A row without them has
            no score and a note that gives the reason.
        origin: when, and from which predictions; default: not recorded.
        references: the published lines that methods reproduce; default: none.

    Raises:
        PrerequisiteError: the folder cannot be written.
    """
    hidden = {(d.dataset.card.name, d.dataset.split) for d in datasets if d.dataset.ground_truth is None}
    rows = []
    for score in with_published(score_rows(results, datasets, pairs or {}, origin or Origin()), references or {}):
        row = asdict(score)
        row["notes"] = list(score.notes)
        rows.append(row)
    for scored in datasets:
        _keep_card(scored.dataset.card, folder)
    stages = tuple(dict.fromkeys([*STAGES, *(stage for result in results for stage in result.keys)]))
    samples = pa.Table.from_pylist(list(_sample_rows(results, hidden, stages)), _sample_schema(stages))
    _write_parquet(folder / "samples.parquet", samples)
    _write_parquet(folder / "frames.parquet", _frame_table(results))
    write_json(folder / "scores.json", scores_file(rows))
    return rows


def _keep_card(card: Card, folder: Path) -> None:
    # A card of one's own: without it nobody could tell later what its protocols average.
    if card.ships:
        return
    try:
        content = card.file.read_bytes()
    except OSError as error:
        raise PrerequisiteError(f"The card {card.file} cannot be read: {error.strerror}.", "Restore it.") from error
    with atomic_write(folder / KEPT / f"{card.name}.yaml") as file:
        file.write(content)


def _sample_schema(stages: Sequence[str]) -> pa.Schema:
    return pa.schema(
        _SAMPLE_FIELDS
        + [(f"seconds_{stage}", pa.float64()) for stage in stages]
        + [(f"key_{stage}", pa.string()) for stage in stages]
        + [(name, pa.string()) for name in ("error", "fallback", "digest_ground_truth", "digest_masks")]
    )


def _sample_rows(
    results: Sequence[SampleResult], hidden: set[tuple[str, str]], stages: Sequence[str]
) -> Iterator[dict[str, Any]]:
    for result in results:
        video, expression = result.sample.video, result.sample.expression
        row: dict[str, Any] = {
            "method": result.method,
            "lvlm": result.lvlm,
            "dataset": video.dataset,
            "split": video.split,
            "video": video.name,
            "expression": expression.id,
            "text": expression.text,
            "subset": expression.subset,
            "status": result.status,
            "num_frames": len(result.frames) or len(video.frames),
            "error": result.error,
            "fallback": "; ".join(f"{stage}: {why}" for stage, why in result.fallbacks.items() if why) or None,
            "digest_ground_truth": result.ground_truth,
            "digest_masks": result.masks,
        }
        if (video.dataset, video.split) not in hidden:
            mean_j, mean_f = result.mean_j_and_f()
            row |= {"J": mean_j, "F": mean_f, "J_and_F": (mean_j + mean_f) / 2}
        row |= {f"seconds_{stage}": result.seconds.get(stage) for stage in stages}
        row |= {f"key_{stage}": result.keys.get(stage) for stage in stages}
        yield row


def _frame_table(results: Sequence[SampleResult]) -> pa.Table:
    with_counts = [result for result in results if result.counts_T6 is not None]
    lengths = [len(result.frames) for result in with_counts]

    def repeated(values: Sequence[str | None]) -> pa.Array:
        return pa.array(values, pa.string()).take(pa.array(np.repeat(np.arange(len(values)), lengths)))

    counts = [result.counts_T6 for result in with_counts if result.counts_T6 is not None]
    counts_T6 = np.concatenate(counts) if counts else np.zeros((0, 6), dtype=np.int64)
    columns = [
        repeated([result.method for result in with_counts]),
        repeated([result.lvlm for result in with_counts]),
        repeated([result.sample.video.dataset for result in with_counts]),
        repeated([result.sample.video.split for result in with_counts]),
        repeated([result.sample.video.name for result in with_counts]),
        repeated([result.sample.expression.id for result in with_counts]),
        pa.array([name for result in with_counts for name in result.frames], pa.string()),
        *(pa.array(np.ascontiguousarray(counts_T6[:, column]), pa.int64()) for column in range(6)),
        pa.array(j(counts_T6)),
        pa.array(f(counts_T6)),
    ]
    return pa.Table.from_arrays(columns, schema=_FRAME_SCHEMA)


def _write_parquet(path: Path, table: pa.Table) -> None:
    with atomic_write(path) as file:
        pq.write_table(table, file, compression="zstd")
