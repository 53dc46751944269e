"""Files over HTTP: continued where they stopped, checked against what is known of them, complete or not there."""

from __future__ import annotations

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import rvosbench
from rvosbench.harness.errors import PrerequisiteError

ATTEMPTS: Final = 5
"""Failures in a row, without a new byte between them, before a download is given up."""
TIMEOUT: Final = 60.0
"""Seconds without a byte."""
_CHUNK = 1 << 20
_MAX_REPLY = 64 << 20
_LOCAL = ("127.0.0.1", "localhost", "::1")
_DAMAGES = 2
_DISK = "Check the disk; the command continues where it stopped."
Wait = Callable[[float], None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file to download, and what is known of it."""

    path: str
    """Where it belongs, relative to the folder that is fetched."""
    url: str
    bytes: int
    sha256: str | None = None
    git_sha1: str | None = None
    """The id of its content in git, where its SHA-256 is not known."""


def require_url(url: str) -> str:
    """The address, if files may come from there.

    Raises:
        PrerequisiteError: neither https nor on this machine.
    """
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOCAL):
        return url
    raise PrerequisiteError(f"{url} is not an https address.", "Correct the address.")


def download(
    file: RemoteFile, folder: Path, *, progress: Callable[[int], None] = lambda _: None, wait: Wait = time.sleep
) -> Path:
    """Downloads one file, or what is missing of it.

    ``<path>.part`` holds what has come so far; it gets its name when it is complete and right.

    Args:
        progress: called with the number of bytes that are there.
        wait: between attempts, in seconds.

    Raises:
        PrerequisiteError: gone, refused, interrupted for good (what came is kept), or damaged twice.
    """
    final = folder / file.path
    if final.is_file() and final.stat().st_size == file.bytes:
        progress(file.bytes)
        return final
    part = final.with_name(f"{final.name}.part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        failures = damages = 0
        while True:
            before = _size(part)
            try:
                _continue(file, part, progress)
            except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
                _refuse_lasting(file, error)
                failures = 0 if _size(part) > before else failures + 1
                if failures >= ATTEMPTS:
                    problem = f"{file.url} could not be read: {_reason(error)}."
                    fix = f"Run the command again: it continues after {_size(part):,} of {file.bytes:,} bytes."
                    raise PrerequisiteError(problem, fix) from error
                wait(min(30.0, 0.5 * 2**failures))
                continue
            if _right(file, part):
                _to_disk(part)
                part.replace(final)
                return final
            part.unlink(missing_ok=True)
            damages += 1
            if damages >= _DAMAGES:
                problem = f"{file.url} does not have the size or checksum that is known of it."
                raise PrerequisiteError(problem, "Try later; if it stays, the owner has changed the file: tell us.")
    except OSError as error:
        raise PrerequisiteError(f"{part} cannot be written: {error.strerror or error}.", _DISK) from error


def read_reply(url: str, *, wait: Wait = time.sleep) -> tuple[bytes, str | None]:
    """The body of a small reply, and the address of the next page where there is one.

    Raises:
        PrerequisiteError: no answer after several attempts, refused, or too long.
    """
    failures = 0
    while True:
        try:
            with closing(_open(url, {})) as reply:
                data = reply.read(_MAX_REPLY + 1)
                link = reply.headers.get("Link") or ""
            break
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            _refuse_lasting(url, error)
            failures += 1
            if failures >= ATTEMPTS:
                problem = f"{url} could not be read: {_reason(error)}."
                raise PrerequisiteError(problem, "Check the network, or try later.") from error
            wait(min(30.0, 0.5 * 2**failures))
    if len(data) > _MAX_REPLY:
        raise PrerequisiteError(f"{url} answered with more than {_MAX_REPLY:,} bytes.", "Try later.")
    following = link.partition(";")[0].strip().strip("<>") if 'rel="next"' in link else None
    return data, following


def _continue(file: RemoteFile, part: Path, progress: Callable[[int], None]) -> None:
    """Appends what is missing; raises where the connection ends before the file does."""
    have = _size(part)
    if have > file.bytes:
        part.unlink()
        have = 0
    if have == file.bytes:
        progress(have)
        return
    try:
        reply = _open(file.url, {"Range": f"bytes={have}-"} if have else {})
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        part.unlink()  # the server's file ends earlier: found by the check
        return
    with closing(reply):
        if have and (reply.status != 206 or not _starts_at(reply, have)):
            have = 0  # the server sends the whole file
        with _writing(part, "ab" if have else "wb") as write:
            while have <= file.bytes and (chunk := reply.read(_CHUNK)):
                write(chunk)
                have += len(chunk)
                progress(min(have, file.bytes))
    if have < file.bytes:
        raise ConnectionError("the connection ended early")


@contextmanager
def _writing(part: Path, mode: str) -> Iterator[Callable[[bytes], object]]:
    """A function that writes; a full disk is no failure of the network, and is not tried again."""

    def checked(work: Callable[[], T]) -> T:
        try:
            return work()
        except OSError as error:
            raise PrerequisiteError(f"{part} cannot be written: {error.strerror or error}.", _DISK) from error

    file = checked(lambda: part.open(mode))
    try:
        yield lambda chunk: checked(lambda: file.write(chunk))
    finally:
        checked(file.close)


def _open(url: str, headers: dict[str, str]) -> Any:
    agent = f"rvosbench/{getattr(rvosbench, '__version__', 'unknown')}"
    request = urllib.request.Request(require_url(url), headers={"User-Agent": agent, **headers})
    return urllib.request.urlopen(request, timeout=TIMEOUT)


def _starts_at(reply: Any, have: int) -> bool:
    return str(reply.headers.get("Content-Range", "")).replace(" ", "").startswith(f"bytes{have}-")


def _right(file: RemoteFile, part: Path) -> bool:
    if _size(part) != file.bytes:
        return False
    if file.sha256 is not None:
        with part.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest() == file.sha256
    if file.git_sha1 is not None:
        whole = hashlib.sha1(b"blob %d\0" % file.bytes, usedforsecurity=False)
        with part.open("rb") as content:
            while chunk := content.read(_CHUNK):
                whole.update(chunk)
        return whole.hexdigest() == file.git_sha1
    return True


def _to_disk(part: Path) -> None:
    with part.open("rb") as file:
        os.fsync(file.fileno())


def _refuse_lasting(what: RemoteFile | str, error: Exception) -> None:
    """Raises for answers that another attempt does not change."""
    url = what if isinstance(what, str) else what.url
    if isinstance(error, urllib.error.HTTPError) and error.code not in (408, 416, 425, 429) and error.code < 500:
        if error.code in (401, 403):
            raise PrerequisiteError(
                f"{url} is not open to everybody (HTTP {error.code}).", "See the card's obtain text."
            )
        raise PrerequisiteError(f"{url} is not there (HTTP {error.code}).", "The owner may have moved it: tell us.")


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return " ".join(str(reason).split()) or type(error).__name__


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
