"""What a data set of the Hugging Face Hub holds at a commit: names, sizes and checksums, without its library."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import quote

from rvosbench.harness.data.cards import HubFolder
from rvosbench.harness.data.download import RemoteFile, read_reply
from rvosbench.harness.data.parsing import parse_json, why_no_name
from rvosbench.harness.errors import PrerequisiteError

_MAX_PAGES = 1000


def endpoint() -> str:
    """The Hub's address: HF_ENDPOINT (a mirror), else the public one."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def hub_files(folder: HubFolder) -> tuple[RemoteFile, ...]:
    """Every file of a folder at the pinned commit.

    Raises:
        PrerequisiteError: no answer, no such commit or folder, or files that differ from what the card knows of them.
    """
    base = f"{endpoint()}/api/datasets/{folder.repository}"
    commit = folder.revision if len(folder.revision) == 40 else _whole_id(base, folder)
    found = {}
    for entry in _pages(f"{base}/tree/{commit}/{quote(folder.folder)}?recursive=true"):
        if entry.get("type") == "file":
            file = _file(entry, folder, commit)
            found[file.path] = file
    where = f"{folder.repository} (commit {commit[:7]})"
    if not found:
        raise PrerequisiteError(f"{where} has no files in {folder.folder}.", "See the card's obtain text.")
    for known in folder.files:
        listed = found.get(known.path)
        if listed is None or (listed.bytes, listed.sha256) != (known.bytes, known.sha256):
            problem = f"{where}: {known.path} is not the file that the card knows."
            raise PrerequisiteError(problem, "See the card's obtain text, and tell us.")
    return tuple(found[path] for path in sorted(found))


def _whole_id(base: str, folder: HubFolder) -> str:
    for entry in _pages(f"{base}/commits/main"):
        commit = entry.get("id")
        if isinstance(commit, str) and commit.startswith(folder.revision) and len(commit) == 40:
            return commit
    problem = f"{folder.repository} has no commit {folder.revision} any more."
    raise PrerequisiteError(problem, "See the card's obtain text, and tell us.")


def _pages(url: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    following: str | None = url
    for _ in range(_MAX_PAGES):
        if following is None:
            return entries
        data, after = read_reply(following)
        page = parse_json(data, following)
        if not isinstance(page, list) or not all(isinstance(entry, dict) for entry in page):
            raise PrerequisiteError(f"{following} did not answer with a list.", "Try later.")
        entries += page
        following = after
    raise PrerequisiteError(f"{url} has more than {_MAX_PAGES} pages.", "See the card's obtain text.")


def _file(entry: dict[str, Any], folder: HubFolder, commit: str) -> RemoteFile:
    path, size, oid, large = entry.get("path"), entry.get("size"), entry.get("oid"), entry.get("lfs")
    sha256 = None
    if isinstance(large, dict):
        size, sha256 = large.get("size", size), large.get("oid")
    fits = isinstance(path, str) and path.startswith(f"{folder.folder}/") and why_no_name(path, folders=True) is None
    whole = isinstance(size, int) and size >= 0 and isinstance(sha256 if sha256 is not None else oid, str)
    if not fits or not whole or not isinstance(path, str) or not isinstance(size, int):
        raise PrerequisiteError(f"{folder.repository} lists a file that cannot be used.", "See the card's obtain text.")
    url = f"{endpoint()}/datasets/{folder.repository}/resolve/{commit}/{quote(path)}"
    below = path.removeprefix(f"{folder.folder}/")
    return RemoteFile(below, url, size, sha256, None if sha256 is not None else oid)
