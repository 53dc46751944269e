"""Seeded mutations of the files that come from outside: JSON, JSON lines, YAML, parquet, npz, archives, plain bytes.

Every function changes one file in place and returns what it did, for the report of a failure.
"""

from __future__ import annotations

import copy
import io
import json
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

Mutation = Callable[[Path, random.Random], list[str]]


class Raw(str):
    """Text that is written into JSON as it stands."""


DEEP = "[" * 3000 + "]" * 3000
NASTY: list[Any] = [
    *(None, True, False, -1, 0, 1, 255, 256, 2**31, 2**63, 10**30, -(10**12), 1.5, -0.0),
    *(Raw("NaN"), Raw("Infinity"), Raw("1e999"), Raw("9" * 5000), Raw('"\\ud800"'), Raw(DEEP)),
    *("", " ", ".", "..", "../../x", "/etc/hostname", "a" * 300, "x/y", "a\\..\\b", "C:\\x", "nul\0x", "new\nline"),
    *("\u202erev", "\x1b[31mESC", "[red]", "[/red]", "=cmd()", "\u0663", "\u00b2", "---", "é" * 200, "0" * 5000),
    *([], {}, [[]], [None], {"a": 1}, [1, 1], [1] * 5000, ["1" * 5000]),
]
YAML_NASTY = [
    *("2001-99-99", "2001-01-01", "0x", "!!int abc", "!!binary '###'", "&a [*a]", "*missing", "~", "[", "{a: b"),
    *("!!python/object/apply:os.getcwd []", "1:60", ".nan", ".inf", "{? [1] : 2}", "!!set {a, b}", "!!timestamp x"),
    *("1e400", "'\\ud800'", '"\\ud800"', '"\\0"', "9" * 5000, "[" * 2000, "-1", "0", "yes", "''", "[]", "{}", "null"),
    *("12345678901234567890", "../../..", "/etc/hostname", "!!omap [a: 1]", "!!float x", "<<", "\t"),
]


def change_bytes(path: Path, rng: random.Random) -> list[str]:
    """Cuts, flips, inserts, repeats or zeroes bytes of any file."""
    data = bytearray(path.read_bytes())
    kind = rng.choice(["cut", "flip", "insert", "deep", "repeat", "bom", "zero"])
    i = rng.randrange(len(data) + 1)
    if kind == "cut":
        data = data[:i]
    elif kind == "flip":
        for _ in range(rng.choice([1, 3, 30]) if data else 0):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == "insert":
        data[i:i] = rng.randbytes(rng.choice([1, 8, 200]))
    elif kind == "deep":
        data[i:i] = b"[" * rng.choice([50, 2000, 100_000])
    elif kind == "repeat":
        j = rng.randrange(len(data) + 1)
        data[j:j] = data[min(i, j) : max(i, j)][:5000]
    elif kind == "bom":
        data[0:0] = rng.choice([b"\xef\xbb\xbf", b"\xff\xfe", b"\x00"])
    else:
        count = rng.choice([1, 16, 512])
        data[i : i + count] = b"\0" * len(data[i : i + count])
    path.write_bytes(bytes(data))
    return [f"{kind} at {i}"]


def change_json(path: Path, rng: random.Random) -> list[str]:
    """Changes values, keys and types of a JSON file, or its bytes."""
    if rng.random() < 0.25:
        return change_bytes(path, rng)
    value, what = _changed(json.loads(path.read_text()), rng)
    path.write_bytes(_encoded(value))
    return what


def change_lines(path: Path, rng: random.Random) -> list[str]:
    """Changes one line of a file of JSON lines, or the file's bytes."""
    if rng.random() < 0.25:
        return change_bytes(path, rng)
    lines = path.read_text().splitlines()
    i = rng.randrange(len(lines))
    value, what = _changed(json.loads(lines[i]), rng)
    encoded = [line.encode() for line in lines]
    encoded[i] = _encoded(value)
    path.write_bytes(b"\n".join(encoded) + b"\n")
    return [f"line {i}", *what]


def change_yaml(path: Path, rng: random.Random) -> list[str]:
    """Changes values, keys and types of a YAML file, single lines of it, or its bytes."""
    if rng.random() < 0.25:
        return change_bytes(path, rng)
    if rng.random() < 0.5:
        lines = path.read_text().split("\n")
        i = rng.choice([i for i, line in enumerate(lines) if ":" in line])
        key, new = lines[i].split(":")[0], rng.choice(YAML_NASTY)
        lines[i] = f"{key}: {new}"
        path.write_text("\n".join(lines))
        return [f"{key.strip()}: {new[:40]}"]
    value, what = _changed(yaml.safe_load(path.read_text()), rng)
    path.write_bytes(_encoded(value))
    return what


def change_parquet(path: Path, rng: random.Random) -> list[str]:
    """Changes, drops, renames, retypes or doubles a column of a table, or the file's bytes."""
    if rng.random() < 0.3:
        return change_bytes(path, rng)
    table = pq.read_table(path)
    columns, count = table.to_pydict(), table.num_rows
    name = rng.choice(list(columns))
    values = [None, float("nan"), float("inf"), -1.0, 2.0, "x", "", "\x1b[31m", "../../x", b"\xff", 2**62, True, [1]]
    kind = rng.choice(["constant", "constant", "drop", "one", "empty", "list", "rename", "long", "twice"])
    if kind == "constant":
        columns[name] = [rng.choice(values)] * count
    elif kind == "drop":
        del columns[name]
    elif kind == "one":
        new = rng.choice(values)
        columns[name] = [new, *([str(x) for x in columns[name][1:]] if isinstance(new, str) else [None] * (count - 1))]
    elif kind == "empty":
        columns = {key: [] for key in columns}
    elif kind == "list":
        columns[name] = [[x] for x in columns[name]]
    elif kind == "rename":
        columns["zz" + name] = columns.pop(name)
    elif kind == "long":
        columns[name] = ["a" * 100_000] * count
    changed = pa.table({key: pa.array(value) for key, value in columns.items()})
    if kind == "twice":
        changed = changed.append_column(name, changed.column(name))
    pq.write_table(changed, path)
    return [f"{kind} {name}"]


def change_npz(path: Path, rng: random.Random) -> list[str]:
    """Changes the meta data or an array of an artefact, or the file's bytes."""
    if rng.random() < 0.35:
        return change_bytes(path, rng)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    arrays = [name for name in members if name.endswith(".npy")]
    texts = [name for name in members if name.endswith(".json")]
    if texts and (rng.random() < 0.6 or not arrays):
        name = rng.choice(texts)
        value, what = _changed(json.loads(members[name]), rng)
        members[name] = _encoded(value)
    else:
        name, kind = rng.choice(arrays), rng.choice(["nan", "flat", "text", "huge", "object", "empty", "drop", "minus"])
        what = [f"{name} {kind}"]
        members[name] = _changed_array(np.load(io.BytesIO(members[name])), kind, rng)
        if kind == "drop":
            del members[name]
    with zipfile.ZipFile(path, "w", rng.choice([zipfile.ZIP_DEFLATED] * 5 + [zipfile.ZIP_LZMA])) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return what


def _changed_array(array: Any, kind: str, rng: random.Random) -> bytes:
    buffer = io.BytesIO()
    if kind == "object":
        np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    elif kind == "huge":
        head = b"{'descr': '<f8', 'fortran_order': False, 'shape': (%d,), }" % (10 ** rng.choice([9, 11, 13, 18]))
        head += b" " * (63 - (len(head) + 10) % 64) + b"\n"
        buffer.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + b"0" * 64)
    elif kind == "nan":
        np.save(buffer, np.full(array.shape, np.nan, dtype=np.float32))
    elif kind == "text":
        np.save(buffer, array.astype("U8"))
    elif kind == "minus":
        np.save(buffer, -np.abs(array.astype(np.float64)) - 1)
    else:
        np.save(buffer, {"flat": array.reshape(-1), "empty": array[:0], "drop": array}[kind])
    return buffer.getvalue()


def _changed(value: Any, rng: random.Random) -> tuple[Any, list[str]]:
    value, what = copy.deepcopy(value), []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        paths = [path for path in _paths(value) if path]
        if not paths:
            break
        path, kind = rng.choice(paths), rng.choice(["set", "set", "set", "delete", "key", "copy", "retype"])
        try:
            parent, last = _at(value, path[:-1]), path[-1]
            if kind == "set":
                parent[last] = copy.deepcopy(rng.choice(NASTY))
            elif kind == "delete":
                del parent[last]
            elif kind == "key" and isinstance(parent, dict):
                parent[rng.choice([x for x in NASTY if type(x) is str])] = parent.pop(last)
            elif kind == "copy":
                parent[last] = copy.deepcopy(_at(value, rng.choice(paths)))
            elif kind == "retype":
                parent[last] = [parent[last]] if isinstance(parent[last], str) else str(parent[last])
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change removed what this one would touch
        what.append(f"{kind} {'.'.join(map(str, path))}")
    return value, what


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield from _paths(child, (*path, key))


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def _encoded(value: Any) -> bytes:
    return _dumped(value).encode("utf-8", "surrogatepass")


def _dumped(value: Any) -> str:
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(str(key))}:{_dumped(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_dumped, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
