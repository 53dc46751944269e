"""``rvosbench datasets fetch``: what owners host where programs may read it, at a pinned revision.

Files come into a folder of their own beside the place they belong to, are checked, and archives are unpacked there.
The finished folder then gets its name by one rename, its record in it: a folder with a record is complete. Whatever
stops the command, the same command goes on from there.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rvosbench.harness.data.cards import Card
from rvosbench.harness.data.download import RemoteFile, download, require_url
from rvosbench.harness.data.hub import hub_files
from rvosbench.harness.data.unpack import stem, unpack
from rvosbench.harness.errors import PrerequisiteError

RECORD = ".rvosbench-fetch.json"
"""In a folder that was fetched: where from, and every file with its checksum."""
_UNPACKED = 1.25
"""Room for the content of an archive, as a multiple of its size: images are compressed already, blocks are not full."""
_SPARE = 256 << 20
"""Bytes that stay free."""


@dataclass(frozen=True)
class FetchPlan:
    """What would be fetched."""

    title: str
    origin: str
    """Repository and revision, or the host of the links."""
    files: tuple[RemoteFile, ...]
    target: Path
    """The folder that will be there afterwards."""

    @property
    def work(self) -> Path:
        """The folder beside the target in which everything happens."""
        return self.target.with_name(f".{self.target.name}.fetching")

    @property
    def done(self) -> bool:
        """The target was fetched before."""
        return (self.target / RECORD).is_file()

    @property
    def download_bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    @property
    def disk_bytes(self) -> int:
        """At most, while archives and their content are both there; what is there already is not counted again."""
        archives = sum(file.bytes for file in self.files if stem(file.path) is not None)
        here = sum(_bytes_here(self.work, file) for file in self.files)
        return self.download_bytes - here + int(archives * _UNPACKED) + _SPARE

    def lines(self) -> list[str]:
        """The plan in words."""
        return [
            f"{self.title}: {len(self.files)} files, {_gigabytes(self.download_bytes)} to download from {self.origin}",
            f"needs about {_gigabytes(self.disk_bytes)} of disk, {_gigabytes(_free(self.target))} are free; "
            f"goes to {self.target}",
        ]


def plan_fetch(card: Card, split: str | None, data_root: Path) -> FetchPlan:
    """Asks the owner's place what it holds.

    Raises:
        PrerequisiteError: the split cannot be fetched by a program (the fix says how to obtain it), the place does not
            answer, or something else lies where the data would go.
    """
    name, facts = card.split(split)
    source = card.fetch.get(name)
    if source is None:
        others = f" Fetchable are: --split {', '.join(card.fetch)}." if card.fetch else ""
        problem = f"{facts.title} is not known to be hosted where a program may fetch it.{others}"
        raise PrerequisiteError(problem, card.obtain)
    target = data_root.absolute() / source.to
    if source.hub is not None:
        files = hub_files(source.hub)
        origin = f"the Hugging Face Hub, {source.hub.repository} at {source.hub.revision[:7]}"
    else:
        files = tuple(RemoteFile(link.path, require_url(link.url), link.bytes, link.sha256) for link in source.links)
        origin = ", ".join(dict.fromkeys(file.url.split("/")[2] for file in files))
    plan = FetchPlan(facts.title, origin, files, target)
    if target.exists() and not plan.done:
        problem = f"{target} is there already and was not fetched by this command."
        raise PrerequisiteError(problem, "Move it away, or check it with rvosbench datasets verify.")
    return plan


def fetch(plan: FetchPlan, progress: Callable[[int, int], None] = lambda done, total: None) -> Path:
    """Downloads, checks, unpacks and puts in place what is missing; returns the target.

    Args:
        progress: called with the bytes that are there and those of all files.

    Raises:
        PrerequisiteError: too little disk, another process fetches the same, or a download or an archive fails. What
            came so far is kept for the next attempt.
    """
    if plan.done:
        return plan.target
    if plan.disk_bytes > _free(plan.target):
        problem = f"{plan.title} needs about {_gigabytes(plan.disk_bytes)} of disk beside {plan.target}; "
        raise PrerequisiteError(
            f"{problem}{_gigabytes(_free(plan.target))} are free.", "Make room, or use another disk."
        )
    try:
        plan.work.mkdir(parents=True, exist_ok=True)
        with _only_one(plan.work):
            _fill(plan, progress)
            ready = plan.work / "ready"
            _write_record(plan, ready)
            ready.rename(plan.target)
        shutil.rmtree(plan.work, ignore_errors=True)
    except OSError as error:
        problem = f"{error.filename or plan.work} cannot be written: {error.strerror or error}."
        raise PrerequisiteError(problem, "Check the data root; the command continues where it stopped.") from error
    return plan.target


def _fill(plan: FetchPlan, progress: Callable[[int, int], None]) -> None:
    ready, total, before = plan.work / "ready", plan.download_bytes, 0
    ready.mkdir(exist_ok=True)
    for file in plan.files:
        folder = stem(file.path)
        place = ready / (file.path if folder is None else folder)
        if not place.exists():
            got = download(file, plan.work / "files", progress=partial(_report, progress, before, total))
            place.parent.mkdir(parents=True, exist_ok=True)
            if folder is None:
                got.rename(place)
            else:
                try:
                    unpack(got, place)
                except PrerequisiteError:
                    got.unlink()  # the next attempt downloads it again
                    raise
                got.unlink()
        before += file.bytes
        progress(before, total)


def _report(progress: Callable[[int, int], None], before: int, total: int, done: int) -> None:
    progress(before + done, total)


def _write_record(plan: FetchPlan, folder: Path) -> None:
    files = [{"path": f.path, "url": f.url, "bytes": f.bytes, "sha256": f.sha256} for f in plan.files]
    with (folder / RECORD).open("w", encoding="utf-8") as file:
        json.dump({"origin": plan.origin, "files": files}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    # The system lets go of the lock when the process ends, however it ends.
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PrerequisiteError(f"Another process is fetching into {folder}.", "Wait for it.") from error
        yield


def _bytes_here(work: Path, file: RemoteFile) -> int:
    for path in (work / "files" / file.path, work / "files" / f"{file.path}.part"):
        if path.is_file():
            return min(path.stat().st_size, file.bytes)
    return file.bytes if (work / "ready" / (stem(file.path) or file.path)).exists() else 0


def _free(target: Path) -> int:
    folder = next(parent for parent in target.parents if parent.exists())
    return shutil.disk_usage(folder).free


def _gigabytes(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e8 else f"{number / 1e6:.1f} MB"
