"""Which code computed the artefacts of a store, so that a plan can say why one is computed again.

Beside the artefacts lies ``code/<second part of the keys>.json``: the stage, its code, and that of the stages before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from rvosbench.harness.store.artefacts import ArtefactStore, write_json
from rvosbench.harness.store.code import Code
from rvosbench.harness.store.keys import code_part, what_part

_FOLDER = "code"
_MAX_BYTES = 4 << 20


@dataclass(frozen=True)
class CodeRecord:
    """The code behind the second part of a key."""

    stage: str
    sources: dict[str, str]
    packages: dict[str, str]
    upstream: dict[str, str]
    """By stage: the second part of its key."""

    def code(self) -> Code:
        """The stage's own code."""
        return Code(self.sources, self.packages)


_RECORD = TypeAdapter(CodeRecord)


class History:
    """The artefacts of a store by what they are, whatever code computed them."""

    def __init__(self, store: ArtefactStore) -> None:
        self._store = store
        self._stages: dict[str, Mapping[str, tuple[str, ...]]] = {}

    def record(self, stage: str, key: str, code: Code, upstream: Mapping[str, str]) -> None:
        """Writes down the code of a key, once.

        Args:
            upstream: the keys of the stages before, by name.

        Raises:
            PrerequisiteError: the disk refuses.
        """
        path = self._path(code_part(key))
        if not path.is_file():
            before = {name: code_part(other) for name, other in upstream.items()}
            write_json(path, asdict(CodeRecord(stage, dict(code.sources), dict(code.packages), before)))

    def has(self, stage: str, key: str) -> bool:
        """Whether the artefact itself was committed."""
        return self._store.has(stage, key)

    def others(self, stage: str, key: str) -> tuple[str, ...]:
        """Keys of committed artefacts that differ from ``key`` in the code alone, newest first."""
        if stage not in self._stages:
            self._stages[stage] = self._listed(stage)
        return tuple(other for other in self._stages[stage].get(what_part(key), ()) if other != key)

    def reasons(self, stage: str, keys: Iterable[str], code: Code, upstream: Mapping[str, str]) -> list[str]:
        """Why artefacts that were computed before are computed again, the commonest reason first.

        Args:
            keys: keys without an artefact.
            code: the stage's code now.
            upstream: the keys of the stages before of one of them, by name.
        """
        older = Counter(code_part(others[0]) for key in keys if (others := self.others(stage, key)))
        found: dict[str, None] = {}
        for part, _ in older.most_common():
            found |= dict.fromkeys(self._differences(part, code, upstream))
        return list(found)

    def _differences(self, part: str, code: Code, upstream: Mapping[str, str]) -> list[str]:
        record = self._read(part)
        if record is None:
            return ["computed by other code"]
        changed = code.changes_since(record.code())
        changed += [f"{name} is new" for name, key in upstream.items() if record.upstream.get(name) != code_part(key)]
        return changed or ["computed by other code"]

    def _read(self, part: str) -> CodeRecord | None:
        path = self._path(part)
        try:
            return _RECORD.validate_json(path.read_bytes()) if path.stat().st_size <= _MAX_BYTES else None
        except (OSError, ValidationError):  # it only explains; without it the explanation is shorter
            return None

    def _path(self, part: str) -> Path:
        return self._store.root / _FOLDER / f"{part}.json"

    def _listed(self, stage: str) -> dict[str, tuple[str, ...]]:
        found: dict[str, list[tuple[float, str]]] = {}
        for path in self._store.paths(stage):
            try:
                found.setdefault(what_part(path.stem), []).append((path.stat().st_mtime, path.stem))
            except OSError:  # removed meanwhile
                continue
        return {what: tuple(key for _, key in sorted(keys, reverse=True)) for what, keys in found.items()}
