"""Settings, of stages and of recipes, whose every field says whether it changes results.

*Identity* fields change outputs and enter artefact keys; *runtime* fields (devices, batch sizes, worker
counts) must not. A field that declares neither cannot be hashed, and ``tests/test_settings.py`` finds it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, ClassVar, Self, Union, cast, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter

ROLE = "rvosbench.role"
CodeTable = Mapping[str, str]
"""Names in settings -> ``module:name`` of the code that they choose. A table that is annotated so is no part of a
stage's code: the line that counts is what ``Settings.uses`` gives, so a line for other code recomputes nothing."""
Json = None | bool | int | float | str | list[Any] | dict[str, Any]


def identity(default: Any = dataclasses.MISSING, **kwargs: Any) -> Any:
    """A dataclass field that changes results."""
    return dataclasses.field(default=default, metadata={ROLE: "identity"}, **kwargs)


def runtime(default: Any = dataclasses.MISSING, **kwargs: Any) -> Any:
    """A dataclass field that must not change results."""
    return dataclasses.field(default=default, metadata={ROLE: "runtime"}, **kwargs)


class Settings:
    """Base of frozen settings dataclasses; read from recipes through pydantic, unknown keys refused."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    @classmethod
    def checked(cls, values: Any) -> Self:
        """These settings from plain values, as a YAML file has them.

        Raises:
            pydantic.ValidationError: an unknown key, or a value of the wrong type or range.
        """
        return TypeAdapter(cls).validate_python(values)

    def plain(self) -> dict[str, Json]:
        """All fields as JSON values; ``checked`` reads them back."""
        values: dict[str, Json] = TypeAdapter(type(self)).dump_python(self, mode="json")
        return values

    def uses(self) -> tuple[str, ...]:
        """``module:name`` of code that these settings choose by a name at run time, e.g. a model family's.

        It enters the keys of the stages, which otherwise know only the code that is imported.
        """
        return ()


def identity_of(settings: Settings) -> dict[str, Json]:
    """The identity fields as plain JSON values, nested settings included.

    Raises:
        TypeError: a field declares no role, or holds a value without a JSON form.
    """
    if not dataclasses.is_dataclass(settings):
        raise TypeError(f"{type(settings).__name__} is not a dataclass")
    out: dict[str, Json] = {}
    for field in dataclasses.fields(settings):
        where = f"{type(settings).__name__}.{field.name}"
        role = field.metadata.get(ROLE)
        if role not in ("identity", "runtime"):
            raise TypeError(f"{where} declares no role: use identity() or runtime() from rvosbench.harness.settings")
        if role == "identity":
            out[field.name] = _plain(getattr(settings, field.name), where)
    return out


def known_keys(settings_type: type[Settings], path: Sequence[str | int]) -> tuple[str, ...]:
    """The fields that a mapping at ``path`` (keys and list positions) of such settings may have; () where any may."""
    found: list[Any] = [settings_type]
    for part in path:
        inner: list[Any] = []
        for kind in found:
            if isinstance(kind, type) and issubclass(kind, Settings):
                hints = get_type_hints(kind)
                inner += _alternatives(hints[part]) if isinstance(part, str) and part in hints else []
            else:  # an element of a list, or a value of a mapping
                inner += [option for argument in get_args(kind) for option in _alternatives(argument)]
        found = inner
    names = [field.name for kind in found if dataclasses.is_dataclass(kind) for field in dataclasses.fields(kind)]
    return tuple(dict.fromkeys(names))


def _alternatives(hint: Any) -> list[Any]:
    """The types of a hint that is a union."""
    return list(get_args(hint)) if get_origin(hint) in (Union, UnionType) else [hint]


def uses_of(settings: Settings) -> tuple[str, ...]:
    """What the settings and all settings nested in them choose by name, sorted, each once."""
    found: set[str] = set()
    pending: list[Any] = [settings]
    while pending:
        value = pending.pop()
        if isinstance(value, Settings):
            found.update(value.uses())
            pending += [getattr(value, field.name) for field in dataclasses.fields(cast(Any, value))]
        elif isinstance(value, tuple | list):
            pending += value
        elif isinstance(value, dict):
            pending += value.values()
    return tuple(sorted(found))


def _plain(value: Any, where: str) -> Json:
    if isinstance(value, Settings):
        return identity_of(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [_plain(element, where) for element in value]
    if isinstance(value, dict):
        return {str(key): _plain(element, where) for key, element in sorted(value.items())}
    raise TypeError(f"{where} holds {type(value).__name__}, which has no JSON form to hash")
