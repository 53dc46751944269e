"""The same masks under the rules of other tools and under the protocols here: the tables of docs/conformance.md.

``python benchmarks/conformance.py SAMPLES --out docs/conformance.md`` reads real masks, applies every rule to them and
writes the page, in about a minute. SAMPLES is a folder with

* ``davis16_val_gt`` (ground truth of DAVIS 2016 val) and ``davis16_results`` (the masks that OSVOS and SiamMask
  submitted, and the official J and F of every frame);
* ``davis17_osvos_results`` (OSVOS on the DAVIS 2017 val videos with one object, and the official J and F per object);
* ``mini_ref_davis17`` (a data root with five videos and twenty expressions of Ref-DAVIS17);
* ``sav_example`` (five objects of a video of SA-V's training set, some of them absent at times);
* ``golden/multiobject`` (six label maps with four of these objects, predictions with permuted ids, and what the DAVIS
  2017 tool gave for them).

lmms-eval's rules are written here from their description, for the comparison only; nothing scores with them.

Shape legend: T frames, H W pixels, O objects, P predictions.
"""

from __future__ import annotations

import argparse
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rvosbench.harness.data.images import read_binary, read_labels, read_mask
from rvosbench.harness.data.masks import decode
from rvosbench.harness.data.reader import open_dataset
from rvosbench.harness.data.types import BoolHW
from rvosbench.harness.scoring.hota import TrackedFrame, hota, mask_similarity
from rvosbench.harness.scoring.kernel import CountsT6, GroundTruthFrame, f, frame_counts, j
from rvosbench.harness.scoring.matching import fuse, match
from rvosbench.harness.scoring.points import Appearances, Point, PointScore, score_points, summarise_points
from rvosbench.harness.scoring.protocols import require_protocol
from rvosbench.harness.scoring.rules import SampleCounts, average
from rvosbench.harness.scoring.statistics import mean_of_groups

SHIFT = 6
"""Pixels by which ground truth is moved to the right to make a prediction."""
LOST = ("car-roundabout", "cows", "goat")
"""Videos whose prediction, or ground truth, is taken away."""
STRIDE = 5
"""Of the frames with ground truth in the table of points."""

Masks = Sequence[BoolHW]


@dataclass(frozen=True, eq=False)
class Query:
    """One expression or object: what comparing its ground truth with its prediction gave."""

    video: str
    name: str
    counts_T6: CountsT6 | None
    """None: the record failed, or there is none."""
    truth_known: bool = True
    """False: the file of the ground truth is missing, and the integers are those against empty masks."""
    annotator: str = ""
    """Queries of one annotator in a video are fused and matched together."""
    masks: tuple[Masks, Masks] | None = None
    """Ground truth and prediction; kept where several objects of a video are matched."""


@dataclass(frozen=True)
class Result:
    """What a rule makes of queries: fractions, and how many queries entered the mean."""

    J: float
    F: float
    queries: int


@dataclass(frozen=True)
class Case:
    """Real masks with a name."""

    name: str
    queries: Sequence[Query]
    official: Result | None = None
    """What the owners' tool published, or gave, for these masks."""


def compared(
    video: str, name: str, truth: Masks, prediction: Masks, *, annotator: str = "", keep: bool = False
) -> Query:
    """A query from its masks, one of each a frame."""
    rows = [frame_counts(gt_HW, mask_HW) for gt_HW, mask_HW in zip(truth, prediction, strict=True)]
    masks = (truth, prediction) if keep else None
    return Query(video, name, np.array(rows, dtype=np.int64), annotator=annotator, masks=masks)


# The rules


def protocol(name: str, queries: Sequence[Query]) -> Result | None:
    """A protocol of the package. What has no ground truth is not scored; opening the dataset left it out."""
    rule = require_protocol(name)
    samples = [SampleCounts(query.video, query.name, None, query.counts_T6) for query in queries if query.truth_known]
    items = average(rule, samples).items
    j_ = mean_of_groups([item.J for item in items], [item.group for item in items], rule.groups)
    f_ = mean_of_groups([item.F for item in items], [item.group for item in items], rule.groups)
    return None if j_ is None or f_ is None else Result(j_, f_, len(items))


def matched(queries: Sequence[Query]) -> Result | None:
    """The DAVIS 2017 unsupervised task, which ``refdavis17/anno4`` applies to each annotator: fuse, match, average."""
    means = []
    for place in dict.fromkeys((query.video, query.annotator) for query in queries):
        mine = [query for query in queries if (query.video, query.annotator) == place]
        if not all(query.truth_known for query in mine):
            continue
        if any(query.counts_T6 is None for query in mine):
            means += [(0.0, 0.0)] * len(mine)
            continue
        j_OT, f_OT = match(_every_pair(mine))
        means += list(zip(j_OT.mean(axis=1), f_OT.mean(axis=1), strict=True))
    return _mean(means)


def lmms_eval(queries: Sequence[Query]) -> Result | None:
    """The second stage of lmms-eval's RVOS tasks, from its description.

    All frames count. Ground truth whose file is missing is taken for empty masks. A record that failed is dropped. The
    score is the plain mean over the queries that are left.
    """
    left = [query.counts_T6 for query in queries if query.counts_T6 is not None]
    return _mean([(float(j(counts_T6).mean()), float(f(counts_T6).mean())) for counts_T6 in left])


RULES: Mapping[str, Callable[[Sequence[Query]], Result | None]] = {
    "`davis17/semi`": partial(protocol, "davis17/semi"),
    "`vosbench`": partial(protocol, "vosbench"),
    "`refdavis17/expr`": partial(protocol, "refdavis17/expr"),
    "`refdavis17/anno4`": matched,
    "lmms-eval stage 2": lmms_eval,
}


def _every_pair(queries: Sequence[Query]) -> np.ndarray:
    """The integers of every object with every fused prediction, (O, P, T, 6)."""
    only_T6 = queries[0].counts_T6
    if len(queries) == 1 and only_T6 is not None:
        return only_T6[None, None]
    masks = [query.masks for query in queries if query.masks is not None]
    table_OPT6 = np.zeros((len(queries), len(queries), len(masks[0][0]), 6), dtype=np.int64)
    for t in range(table_OPT6.shape[2]):
        fused = fuse([prediction[t] for _, prediction in masks])
        for o, (truth, _) in enumerate(masks):
            prepared = GroundTruthFrame(truth[t])
            for p, mask_HW in enumerate(fused):
                assert mask_HW is not None
                table_OPT6[o, p, t] = prepared.counts(mask_HW)
    return table_OPT6


def _mean(means: Sequence[tuple[float, float]]) -> Result | None:
    if not means:
        return None
    return Result(float(np.mean([a for a, _ in means])), float(np.mean([b for _, b in means])), len(means))


# The masks


def cases(samples: Path) -> Iterator[Case]:
    """Every row of the first table."""
    yield davis16(samples, "osvos", "OSVOS")
    yield davis16(samples, "siammask", "SiamMask")
    whole = davis17(samples)
    yield whole
    yield ref_davis(samples)
    yield permuted(samples)
    yield Case("The same as one query for all four objects", _union(samples))
    yield from lost(whole)
    yield from absent(samples)


def davis16(samples: Path, method: str, title: str) -> Case:
    """A submission to DAVIS 2016 on the 20 val videos; official: means of the published values, three decimals each."""
    published = json.loads((samples / "davis16_results" / f"{method}_official_per_frame.json").read_text())
    queries, means = [], []
    with zipfile.ZipFile(samples / "davis16_results" / f"{method}.zip") as archive:
        members = {"/".join(name.split("/")[-2:]): name for name in archive.namelist() if name.endswith(".png")}
        for folder in sorted((samples / "davis16_val_gt").iterdir()):
            names = sorted(path.name for path in folder.glob("*.png"))
            prediction = [read_mask(archive.read(members[f"{folder.name}/{name}"]), name).mask_HW for name in names]
            queries.append(compared(folder.name, "1", [read_binary(folder / name) for name in names], prediction))
            means.append([float(np.mean([float(v) for v in published[folder.name][value]])) for value in ("J", "F")])
    official = _mean([(a, b) for a, b in means])
    return Case(f"{title}, DAVIS 2016 val: 20 videos", queries, official)


def davis17(samples: Path) -> Case:
    """OSVOS on the 13 val videos of DAVIS 2017 with one object; official: published per object, four decimals."""
    published = json.loads((samples / "davis17_osvos_results/osvos_official_per_object.json").read_text())
    queries, means = [], []
    for folder in sorted((samples / "davis17_osvos_results/osvos").iterdir()):
        queries.append(compared(folder.name, "1", *_osvos(samples, folder.name)))
        values = published[f"{folder.name}_1"]
        means.append((float(values["J"]), float(values["F"])))
    return Case(f"OSVOS, DAVIS 2017 val: the {len(queries)} videos with one object", queries, _mean(means))


def ref_davis(samples: Path) -> Case:
    """Twenty real expressions of Ref-DAVIS17, each answered with OSVOS's mask of the video."""
    dataset = open_dataset("ref_davis17", samples / "mini_ref_davis17", "valid", needs="masks")
    ground_truth = dataset.ground_truth
    assert ground_truth is not None
    queries = []
    for sample in dataset.samples():
        video, expression = sample.video, sample.expression
        _, prediction = _osvos(samples, video.name)
        truth = [ground_truth.mask(video, expression, frame) for frame in range(len(video.frames))]
        queries.append(compared(video.name, expression.id, truth, prediction, annotator=str(expression.annotator)))
    return Case(f"OSVOS's masks as answers to Ref-DAVIS17: 5 videos, {len(queries)} expressions", queries)


def permuted(samples: Path) -> Case:
    """Label maps with four objects and predictions with permuted ids; official: the DAVIS 2017 tool, matching."""
    folder = samples / "golden/multiobject"
    golden = json.loads((folder / "expected.json").read_text())["unsupervised"]
    truths, predictions = _label_maps(folder)
    queries = [
        compared("video", str(o), [m == o for m in truths], [m == o for m in predictions], keep=True)
        for o in range(1, 5)
    ]
    official = Result(float(np.mean(golden["J"])), float(np.mean(golden["F"])), 4)
    return Case("Four objects of SA-V with permuted ids: 6 frames", queries, official)


def lost(whole: Case) -> Iterator[Case]:
    """Three records that failed; three files of ground truth that are missing, the predictions empty."""
    failed = [replace(query, counts_T6=None) if query.video in LOST else query for query in whole.queries]
    yield Case(f"The {len(failed)} videos, {len(LOST)} predictions failed", failed)
    nothing = [
        replace(query, counts_T6=_nothing(query), truth_known=False) if query.video in LOST else query
        for query in whole.queries
    ]
    yield Case(f"The {len(nothing)} videos, {len(LOST)} ground truths missing, their predictions empty", nothing)


def _nothing(query: Query) -> CountsT6:
    """The integers of a query whose ground truth and prediction are empty on all frames."""
    assert query.counts_T6 is not None
    return np.zeros_like(query.counts_T6)


def absent(samples: Path) -> Iterator[Case]:
    """Objects that are absent at times: ground truth moved by a few pixels, and nothing predicted at all."""
    objects = _masklets(samples)
    moved = [compared("video", name, truth, _moved(truth), keep=True) for name, truth in objects.items()]
    yield Case(f"Five objects of SA-V, absent at times, moved by {SHIFT} pixels: 121 frames", moved)
    empty = [
        compared("video", name, truth, [np.zeros_like(mask_HW) for mask_HW in truth], keep=True)
        for name, truth in objects.items()
    ]
    yield Case("The same, nothing predicted", empty)


def _osvos(samples: Path, video: str) -> tuple[Masks, Masks]:
    """Ground truth and OSVOS's masks of a DAVIS video."""
    truth = sorted((samples / "davis16_val_gt" / video).glob("*.png"))
    prediction = sorted((samples / "davis17_osvos_results/osvos" / video).glob("*.png"))
    return [read_binary(path) for path in truth], [read_binary(path) for path in prediction]


def _label_maps(folder: Path) -> tuple[list[Any], list[Any]]:
    truths, predictions = ([read_labels(p) for p in sorted((folder / name).glob("*.png"))] for name in ("gt", "pred"))
    return truths, predictions


def _union(samples: Path) -> list[Query]:
    truths, predictions = _label_maps(samples / "golden/multiobject")
    return [compared("video", "all", [m > 0 for m in truths], [m > 0 for m in predictions])]


def _masklets(samples: Path) -> dict[str, list[BoolHW]]:
    table = json.loads((samples / "sav_example/mask_dict.json").read_text())
    sizes = {tuple(rle["size"]) for masks in table.values() for rle in masks if rle is not None}
    [(height, width)] = sizes
    return {
        name: [decode(None if rle is None else rle["counts"], height, width) for rle in masks]
        for name, masks in table.items()
    }


def _moved(masks: Masks) -> list[BoolHW]:
    out = []
    for mask_HW in masks:
        moved_HW = np.zeros_like(mask_HW)
        moved_HW[:, SHIFT:] = mask_HW[:, :-SHIFT]
        out.append(moved_HW)
    return out


# Points and identities


def point_rows(samples: Path) -> Iterator[tuple[str, dict[int, tuple[float | None, float | None, float | None]]]]:
    """Precision, recall and F1 by tolerance: one point a frame from OSVOS's masks, in time and one frame late.

    Ground truth is that of every fifth frame of the five videos of ``mini_ref_davis17``.
    """
    videos = sorted(path.name for path in (samples / "mini_ref_davis17/davis17/valid/JPEGImages").iterdir())
    asked = []
    for video in videos:
        truth, prediction = _osvos(samples, video)
        frames = range(0, len(truth) - 1, STRIDE)
        appearances: Appearances = {("1", frame): truth[frame] for frame in frames}
        asked.append((appearances, [(frame, _middle(prediction[frame])) for frame in frames]))
    for name, late in (("in time", 0), ("one frame late", 1)):
        values = {}
        for tolerance in (0, 1):
            scores: list[PointScore] = []
            for appearances, found in asked:
                points = [Point(frame + late, *place) for frame, place in found if place is not None]
                scores.append(score_points(points, appearances, tolerance))
            summary = summarise_points(scores, tolerance)
            values[tolerance] = (summary.precision, summary.recall, summary.f1)
        yield name, values


def identity_rows(samples: Path) -> Iterator[tuple[str, float, float, float, float]]:
    """HOTA, DetA and AssA by identity, and the root of the union's DetA: identities right, then swapped half-way.

    Every fourth frame is taken.
    """
    objects = {name: masks[::4] for name, masks in _masklets(samples).items()}
    moved = {name: _moved(truth) for name, truth in objects.items()}
    one, other = list(objects)[:2]
    frames = len(objects[one])
    for title, swapped_from in (("right", frames), ("of two objects swapped half-way", frames // 2)):
        tracked, joined = [], []
        for t in range(frames):
            swap = {one: other, other: one} if t >= swapped_from else {}
            truths = {name: masks[t] for name, masks in objects.items() if masks[t].any()}
            found = {swap.get(name, name): masks[t] for name, masks in moved.items() if masks[t].any()}
            similarity = mask_similarity(list(truths.values()), list(found.values()))
            tracked.append(TrackedFrame(tuple(truths), tuple(found), similarity))
            whole = [[np.logical_or.reduce(list(masks.values()))] for masks in (truths, found)]
            joined.append(TrackedFrame(("all",), ("all",), mask_similarity(*whole)))
        by_identity, by_union = hota(tracked), hota(joined)
        assert by_identity is not None and by_union is not None
        root = float(np.sqrt(by_union.det_a_A).mean())
        yield title, by_identity.hota, by_identity.det_a, by_identity.ass_a, root


def _middle(mask_HW: BoolHW) -> tuple[float, float] | None:
    """x and y of the centre of the mask's pixel that is nearest to its centroid; None for an empty mask."""
    places = np.argwhere(mask_HW)
    if not len(places):
        return None
    y, x = places[((places - places.mean(axis=0)) ** 2).sum(axis=1).argmin()]
    return float(x) + 0.5, float(y) + 0.5


# The page


def page(samples: Path) -> str:
    """docs/conformance.md."""
    table = ["| masks | official | " + " | ".join(RULES) + " |", "|---" * (len(RULES) + 2) + "|"]
    for case in cases(samples):
        cells = [_cell(case.official, len(case.queries))]
        cells += [_cell(rule(case.queries), len(case.queries)) for rule in RULES.values()]
        table.append(f"| {case.name} | " + " | ".join(cells) + " |")
    points = ["| points | `points/tol0` P, R, F1 | `points/tol1` P, R, F1 |", "|---|---|---|"]
    for name, values in point_rows(samples):
        points.append(
            f"| {name} | " + " | ".join(", ".join(_percent(v) for v in row) for row in values.values()) + " |"
        )
    identities = ["| identities | HOTA | DetA | AssA | root of the union's DetA |", "|---|---|---|---|---|"]
    for title, *numbers in identity_rows(samples):
        identities.append(f"| {title} | " + " | ".join(_percent(number) for number in numbers) + " |")
    text = Path(__file__).with_name("conformance_page.md").read_text()
    for mark, lines in (("CASES", table), ("POINTS", points), ("IDENTITIES", identities)):
        text = text.replace(f"<!-- {mark} -->", "\n".join(lines))
    return text


def _cell(result: Result | None, queries: int) -> str:
    if result is None:
        return "-"
    left = "" if result.queries == queries else f" ({result.queries} of {queries})"
    return f"{100 * result.J:.2f}, {100 * result.F:.2f}{left}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", type=Path)
    parser.add_argument("--out", type=Path, help="default: the terminal")
    given = parser.parse_args()
    text = page(given.samples)
    if given.out is None:
        print(text)
    else:
        given.out.write_text(text)


if __name__ == "__main__":
    main()
