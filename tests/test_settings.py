"""Every setting says whether it changes results."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil

import pytest

import rvosbench.harness
import rvosbench.methods
from rvosbench.harness.recipes import Recipe, ServingChoice
from rvosbench.harness.settings import ROLE, Settings, identity, identity_of, runtime


def _all_settings() -> list[type[Settings]]:
    for package in (rvosbench.harness, rvosbench.methods):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)

    def below(cls: type[Settings]) -> list[type[Settings]]:
        return [leaf for sub in cls.__subclasses__() for leaf in (sub, *below(sub))]

    return [cls for cls in below(Settings) if cls.__module__.startswith("rvosbench.")]


def test_every_settings_field_is_identity_or_runtime() -> None:
    found = _all_settings()
    assert len(found) >= 4, "the walk over the packages found too few settings classes"
    assert {Recipe, ServingChoice} <= set(found), "recipes are settings like those of stages"
    for cls in found:
        assert dataclasses.is_dataclass(cls), f"{cls.__name__} must be a dataclass"
        for field in dataclasses.fields(cls):
            assert field.metadata.get(ROLE) in ("identity", "runtime"), (
                f"{cls.__module__}.{cls.__name__}.{field.name} declares no role. Write identity(...) if it changes "
                "results (artefacts are then computed anew), runtime(...) if it must not."
            )


@dataclasses.dataclass(frozen=True)
class _Inner(Settings):
    sigma: float = identity(1.0)
    device: str = runtime("cpu")


@dataclasses.dataclass(frozen=True)
class _Outer(Settings):
    inner: _Inner = identity(_Inner())
    sizes: tuple[int, ...] = identity((1, 2))
    workers: int = runtime(1)


def test_identity_leaves_runtime_fields_out_at_every_depth() -> None:
    settings = _Outer(inner=_Inner(sigma=2.0, device="cuda"), workers=64)
    assert identity_of(settings) == {"inner": {"sigma": 2.0}, "sizes": [1, 2]}


def test_a_field_without_a_role_is_refused() -> None:
    @dataclasses.dataclass(frozen=True)
    class Bad(Settings):
        x: int = 1

    with pytest.raises(TypeError, match=r"Bad\.x declares no role"):
        identity_of(Bad())
