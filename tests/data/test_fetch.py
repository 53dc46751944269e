"""Fetching from a small server of our own: interrupted, damaged, wrong, hostile, resumed, complete."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from rvosbench.harness import cli
from rvosbench.harness.data import fetch as fetching
from rvosbench.harness.data.cards import card_names, load_card, read_card
from rvosbench.harness.data.download import RemoteFile, download
from rvosbench.harness.data.fetch import RECORD, FetchPlan, fetch, plan_fetch
from rvosbench.harness.data.unpack import stem, unpack
from rvosbench.harness.errors import PrerequisiteError

from .test_own_cards import card

Run = Callable[..., tuple[int, str]]


class Server:
    """Serves ``files`` by path with ranges; keeps what was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cuts: dict[str, list[int]] = {}
        """By path: after how many bytes the next answers break off."""
        self.statuses: dict[str, list[int]] = {}
        """By path: what the next answers are instead."""
        self.ranges = True
        self.requests: list[tuple[str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(handler.path).path).lstrip("/")
        wanted = handler.headers.get("Range")
        self.requests.append((path, wanted))
        if self.statuses.get(path):
            handler.send_error(self.statuses[path].pop(0))
            return
        if path not in self.files:
            handler.send_error(404)
            return
        body, start = self.files[path], 0
        if wanted and self.ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            handler.send_response(200)
        handler.send_header("Content-Length", str(len(body) - start))
        handler.end_headers()
        cut = self.cuts[path].pop(0) if self.cuts.get(path) else len(body)
        handler.wfile.write(body[start : start + cut])
        handler.close_connection = True


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["rvosbench", *map(str, arguments)])
        code: object = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
        captured = capsys.readouterr()
        return int(str(code or 0)), " ".join((captured.out + captured.err).split())

    return run


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def remote(server: Server, body: bytes, **changes: Any) -> RemoteFile:
    server.files["f.bin"] = body
    return RemoteFile(**{"path": "f.bin", "url": f"{server.address}/f.bin", "bytes": len(body), "sha256": sha256(body), **changes})  # fmt: skip # noqa: E501


BODY = bytes(range(256)) * 40


def test_a_download_goes_on_where_the_connection_broke(server: Server, tmp_path: Path) -> None:
    server.cuts["f.bin"] = [1000, 0, 2000]
    seen: list[int] = []
    path = download(remote(server, BODY), tmp_path, progress=seen.append, wait=lambda _: None)
    assert path.read_bytes() == BODY and not list(tmp_path.glob("*.part"))
    assert [wanted for _, wanted in server.requests] == [None, "bytes=1000-", "bytes=1000-", "bytes=3000-"]
    assert seen == sorted(seen) and seen[-1] == len(BODY)


def test_a_server_without_ranges_sends_it_again(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    server.cuts["f.bin"] = [1000]
    assert download(remote(server, BODY), tmp_path, wait=lambda _: None).read_bytes() == BODY


def test_what_came_is_kept_for_the_next_attempt(server: Server, tmp_path: Path) -> None:
    file = remote(server, BODY)
    server.cuts["f.bin"] = [1000, 0, 0, 0, 0, 0]
    with pytest.raises(PrerequisiteError) as caught:
        download(file, tmp_path, wait=lambda _: None)
    assert "1,000" in caught.value.fix and (tmp_path / "f.bin.part").stat().st_size == 1000
    assert download(file, tmp_path, wait=lambda _: None).read_bytes() == BODY
    server.requests.clear()
    assert download(file, tmp_path).read_bytes() == BODY and not server.requests, "nothing is asked for again"


def test_damage_is_found_and_downloaded_again(server: Server, tmp_path: Path) -> None:
    file = remote(server, BODY)
    (tmp_path / "f.bin.part").write_bytes(b"x" * 500)
    assert download(file, tmp_path, wait=lambda _: None).read_bytes() == BODY
    assert [wanted for _, wanted in server.requests] == ["bytes=500-", None]


@pytest.mark.parametrize(
    "changes",
    [{"sha256": "0" * 64}, {"bytes": len(BODY) - 1}, {"bytes": len(BODY) + 1}, {"sha256": None, "git_sha1": "0" * 40}],
)
def test_a_file_that_is_not_the_known_one_is_refused(server: Server, tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(PrerequisiteError):
        download(remote(server, BODY, **changes), tmp_path, wait=lambda _: None)
    assert not (tmp_path / "f.bin").exists()


def test_git_ids_are_checked(server: Server, tmp_path: Path) -> None:
    git = hashlib.sha1(b"blob %d\0" % len(BODY) + BODY, usedforsecurity=False).hexdigest()
    file = remote(server, BODY, sha256=None, git_sha1=git)
    assert download(file, tmp_path).read_bytes() == BODY


@pytest.mark.parametrize(("status", "attempts"), [(404, 1), (403, 1), (410, 1), (500, 2), (429, 2)])
def test_only_passing_errors_are_tried_again(server: Server, tmp_path: Path, status: int, attempts: int) -> None:
    file = remote(server, BODY)
    server.statuses["f.bin"] = [status]
    if attempts == 1:
        with pytest.raises(PrerequisiteError):
            download(file, tmp_path, wait=lambda _: None)
    else:
        assert download(file, tmp_path, wait=lambda _: None).read_bytes() == BODY
    assert len(server.requests) == attempts


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://h/x", "http://example.org/x", "/etc/passwd"])
def test_only_https_and_this_machine(tmp_path: Path, url: str) -> None:
    with pytest.raises(PrerequisiteError):
        download(RemoteFile("f", url, 1), tmp_path, wait=lambda _: None)


# Archives.


def tar(members: dict[str, bytes], mode: str = "w:gz", **special: tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        for entry in special.values():
            archive.addfile(entry)
    return out.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


@pytest.mark.parametrize(("name", "pack"), [("A.tar.gz", tar), ("A.tgz", tar), ("A.tar", lambda m: tar(m, "w")), ("A.zip", zipped)])  # fmt: skip # noqa: E501
@pytest.mark.parametrize("top", ["", "A/", "./", "./A/"])
def test_archives_become_the_folder_of_their_name(tmp_path: Path, name: str, pack: Any, top: str) -> None:
    path = tmp_path / name
    path.write_bytes(pack({f"{top}v/1.png": b"1", f"{top}v/2.png": b"2", f"{top}__MACOSX/x": b"", f"{top}v/._1": b""}))
    assert stem(name) == "A"
    unpack(path, tmp_path / "A")
    found = {p.relative_to(tmp_path / "A").as_posix() for p in (tmp_path / "A").rglob("*") if p.is_file()}
    assert found == {"v/1.png", "v/2.png"}


def _link(kind: bytes, target: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo("v/link")
    entry.type, entry.linkname = kind, target
    return entry


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("A.tar", tar({"../x": b"1"}, "w")),
        ("A.tar", tar({"/tmp/x": b"1"}, "w")),
        ("A.tar", tar({"v/../../x": b"1"}, "w")),
        ("A.tar", tar({}, "w", a=_link(tarfile.SYMTYPE, "/etc/passwd"))),
        ("A.tar", tar({}, "w", a=_link(tarfile.LNKTYPE, "../../x"))),
        ("A.tar", tar({}, "w", a=_link(tarfile.FIFOTYPE, ""))),
        ("A.tar", tar({"v": b"1", "v/x": b"2"}, "w")),
        ("A.tar.gz", tar({"v/x": bytes(3000)})[:-40]),
        ("A.tar.gz", b"nothing"),
        ("A.zip", zipped({"..\\x": b"1"})),
        ("A.zip", zipped({"../x": b"1"})),
        ("A.zip", zipped({"v/x": b"1"})[:-30]),
        ("A.zip", b""),
    ],
)
def test_hostile_and_damaged_archives_leave_nothing_in_place(tmp_path: Path, name: str, content: bytes) -> None:
    folder = tmp_path / "inside/deep"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(content)
    with pytest.raises(PrerequisiteError):
        unpack(folder / name, folder / "A")
    assert not (folder / "A").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["inside"] and not (tmp_path / "inside/x").exists()


def test_an_archive_that_outgrows_its_size_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rvosbench.harness.data.unpack._SLACK", 1000)
    (tmp_path / "A.tar.gz").write_bytes(tar({"v": bytes(10**6)}))
    with pytest.raises(PrerequisiteError):
        unpack(tmp_path / "A.tar.gz", tmp_path / "A")
    assert not (tmp_path / "A").exists()


# The whole way: a benchmark behind links, and one on a hub.


@pytest.fixture
def linked(server: Server, tree: Any, square: Any, tmp_path: Path) -> Path:
    """A card of one's own whose three files are behind links."""
    frames = ["00000", "00001"]
    expressions = {"a": {"exp": "it", "obj_id": 1, "kind": "still"}}
    for frame in frames:
        tree.binary(f"made/masks/v/1/{frame}.png", square(0, 0))
    tree.frames("made/frames/v", frames)

    def packed(folder: str) -> bytes:
        root = tree.root / "made" / folder
        return tar({p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*.*"))})

    server.files = {
        "test.json": json.dumps({"videos": {"v": {"frames": frames, "expressions": expressions}}}).encode(),
        "masks.tar.gz": packed("masks"),
        "frames.tar.gz": packed("frames"),
    }
    links = [
        {"path": name, "url": f"{server.address}/{name}", "bytes": len(body), "sha256": sha256(body)}
        for name, body in server.files.items()
    ]
    path = tmp_path / "mybench.yaml"
    path.write_text(yaml.safe_dump(card(fetch={"test": {"to": "my-data", "links": links}})))
    return path


def files_in(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_fetched_verified_and_not_fetched_twice(linked: Path, server: Server, tmp_path: Path, run: Run) -> None:
    root = tmp_path / "root"
    code, text = run("datasets", "fetch", linked, "--data-root", root, "--dry-run")
    assert code == 0 and "are free" in text and not root.exists() and not server.requests
    code, text = run("datasets", "fetch", linked, "--data-root", root)
    assert code == 0 and "complete" in text
    record = json.loads((root / "my-data" / RECORD).read_text())
    assert {file["path"] for file in record["files"]} == {"test.json", "masks.tar.gz", "frames.tar.gz"}
    assert [p.name for p in root.iterdir()] == ["my-data"], "nothing is left beside it"
    server.requests.clear()
    code, _ = run("datasets", "fetch", linked, "--data-root", root)
    assert code == 0 and not server.requests


@pytest.mark.parametrize("broken", ["test.json", "masks.tar.gz", "frames.tar.gz"])
def test_an_interrupted_fetch_goes_on(
    linked: Path, server: Server, tmp_path: Path, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rvosbench.harness.data.download.ATTEMPTS", 1)
    root = tmp_path / "root"
    server.cuts[broken] = [20, 0]
    plan = plan_fetch(read_card(linked), None, root)
    with pytest.raises(PrerequisiteError):
        for _ in range(3):
            fetch(plan)
    assert not plan.target.exists()
    server.cuts.clear()
    server.requests.clear()
    assert fetch(plan) == root / "my-data" and not plan.work.exists()
    assert (broken, "bytes=20-") in server.requests
    asked = [path for path, _ in server.requests]
    assert len(asked) == len(set(asked)), "nothing that had come is asked for again"
    assert {"test.json", "masks/v/1/00000.png", "frames/v/00001.jpg", RECORD} <= set(files_in(plan.target))


def test_a_stop_at_any_moment_leaves_a_state_that_goes_on(
    linked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = fetch(plan_fetch(read_card(linked), None, tmp_path / "whole"))
    for stop in ("unpack", "_write_record"):
        root = tmp_path / stop
        plan = plan_fetch(read_card(linked), None, root)
        with monkeypatch.context() as patch:

            def interrupt(*_: Any) -> None:
                raise KeyboardInterrupt

            patch.setattr(fetching, stop, interrupt)
            with pytest.raises(KeyboardInterrupt):
                fetch(plan)
        assert not plan.target.exists() and not plan.done
        assert files_in(fetch(plan)) == files_in(wanted)


def test_a_wrong_checksum_puts_nothing_in_place(linked: Path, server: Server, tmp_path: Path, run: Run) -> None:
    server.files["masks.tar.gz"] = server.files["masks.tar.gz"][:-1] + b"x"
    root = tmp_path / "root"
    code, text = run("datasets", "fetch", linked, "--data-root", root)
    assert code == 2 and "masks.tar.gz" in text and not (root / "my-data").exists()


def test_data_that_lies_there_is_not_touched(linked: Path, tmp_path: Path, run: Run) -> None:
    root = tmp_path / "root"
    (root / "my-data").mkdir(parents=True)
    (root / "my-data/mine.txt").write_text("mine")
    code, _ = run("datasets", "fetch", linked, "--data-root", root)
    assert code == 2 and files_in(root) == {"my-data/mine.txt": b"mine"}


def test_disk_is_checked_first(linked: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_free", lambda _: 1000)
    plan = plan_fetch(read_card(linked), None, tmp_path / "root")
    with pytest.raises(PrerequisiteError):
        fetch(plan)
    assert not server.requests and not (tmp_path / "root").exists()


def test_two_processes_do_not_fetch_the_same(linked: Path, tmp_path: Path) -> None:
    plan = plan_fetch(read_card(linked), None, tmp_path / "root")
    plan.work.mkdir(parents=True)
    with fetching._only_one(plan.work), pytest.raises(PrerequisiteError):
        fetch(plan)
    assert fetch(plan).is_dir()


def hub(server: Server, commit: str, files: dict[str, bytes]) -> None:
    """What the Hub answers, in two pages of commits and with a large and a small file."""
    base = "api/datasets/owner/set"
    server.files[f"{base}/commits/main"] = json.dumps([{"id": "f" * 40}, {"id": commit}]).encode()
    listing: list[dict[str, Any]] = [{"type": "directory", "path": "valid/x", "size": 0, "oid": "0" * 40}]
    for path, body in files.items():
        git = hashlib.sha1(b"blob %d\0" % len(body) + body, usedforsecurity=False).hexdigest()
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(body), "oid": git}
        if path.endswith(".gz"):
            entry["lfs"] = {"oid": sha256(body), "size": len(body)}
        listing.append(entry)
        server.files[f"datasets/owner/set/resolve/{commit}/{path}"] = body
    server.files[f"{base}/tree/{commit}/valid"] = json.dumps(listing).encode()


COMMIT = "674d7df" + "0" * 33


def hub_card(tmp_path: Path, revision: str, known: list[dict[str, Any]]) -> Path:
    source = {"repository": "owner/set", "revision": revision, "folder": "valid", "files": known}
    path = tmp_path / "mybench.yaml"
    path.write_text(yaml.safe_dump(card(fetch={"test": {"to": "my-data", "hub": source}})))
    return path


@pytest.mark.parametrize("revision", [COMMIT, COMMIT[:7]])
def test_a_folder_of_the_hub_at_a_pinned_commit(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, revision: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    files = {"valid/meta.json": b"{}", "valid/A.tar.gz": tar({"v/1": b"1"})}
    hub(server, COMMIT, files)
    known = [{"path": "A.tar.gz", "bytes": len(files["valid/A.tar.gz"]), "sha256": sha256(files["valid/A.tar.gz"])}]
    path = hub_card(tmp_path, revision, known)
    target = fetch(plan_fetch(read_card(path), None, tmp_path / "root"))
    assert set(files_in(target)) == {"meta.json", "A/v/1", RECORD}
    known[0]["sha256"] = "0" * 64
    with pytest.raises(PrerequisiteError):
        plan_fetch(read_card(hub_card(tmp_path, revision, known)), None, tmp_path / "other")


@pytest.mark.parametrize(
    "listing",
    [
        b"{}",
        b"[1]",
        b"not json",
        b"<html>",
        b"[]",
        b'[{"type": "file", "path": "../x", "size": 1, "oid": "0"}]',
        b'[{"type": "file", "path": "valid/../../x", "size": 1, "oid": "0"}]',
        b'[{"type": "file", "path": "valid/x", "size": -1, "oid": "0"}]',
        b'[{"type": "file", "path": "valid/x", "size": 1, "lfs": {"oid": 3}}]',
    ],
)
def test_a_hub_that_answers_otherwise_is_one_sentence(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run, listing: bytes
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    server.files[f"api/datasets/owner/set/tree/{COMMIT}/valid"] = listing
    path = hub_card(tmp_path, COMMIT, [])
    code, _ = run("datasets", "fetch", path, "--data-root", tmp_path / "root")
    assert code == 2 and not (tmp_path / "root").exists()


def test_a_commit_that_is_gone_is_one_sentence(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    server.files["api/datasets/owner/set/commits/main"] = json.dumps([{"id": "f" * 40}]).encode()
    code, text = run("datasets", "fetch", hub_card(tmp_path, "1234567", []), "--data-root", tmp_path)
    assert code == 2 and "1234567" in text


def test_for_the_others_it_says_how_to_obtain_them(tmp_path: Path, run: Run) -> None:
    for name in card_names():
        facts = load_card(name)
        for split in set(facts.splits) - set(facts.fetch):
            code, text = run("datasets", "fetch", name, "--split", split, "--data-root", tmp_path)
            assert code == 2 and facts.obtain.split()[0] in text


def test_the_plan_counts_what_is_there(server: Server, tmp_path: Path) -> None:
    file = RemoteFile("A.tar.gz", f"{server.address}/A.tar.gz", 10**9)
    plan = FetchPlan("x", "y", (file,), tmp_path / "t")
    before = plan.disk_bytes
    part = plan.work / "files/A.tar.gz.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(1000))
    assert before - plan.disk_bytes == 1000 and before > 2 * 10**9
