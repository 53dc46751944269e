"""What a user of a partial install is told to install."""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import typer

from rvosbench.harness import cli
from rvosbench.harness.extras import EXTRAS, install_command, missing_package

ROOT = Path(__file__).resolve().parents[2]


def test_extras_are_those_of_the_package() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(EXTRAS) <= set(declared)
    base = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert not any(line.startswith(module) for line in base for modules in EXTRAS.values() for module in modules)


def test_a_module_of_an_extra_is_named_with_its_extra_and_others_are_not_explained() -> None:
    error = missing_package(ModuleNotFoundError("no", name="torch.nn"))
    assert error is not None and "'torch'" in error.problem and "models]" in error.fix
    assert missing_package(ModuleNotFoundError("no", name="rvosbench.absent")) is None
    assert missing_package(ModuleNotFoundError("no")) is None


def test_the_command_fits_a_checkout_and_an_installed_copy(tmp_path: Path) -> None:
    assert install_command("run", tmp_path) == "pip install 'rvosbench[run]'"
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    assert install_command("run", tmp_path) == f"uv pip install -c {tmp_path}/constraints.txt -e '{tmp_path}[run]'"


def test_a_missing_extra_is_a_usage_error_and_a_bug_stays_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(module: str) -> None:
        def app() -> None:
            raise ModuleNotFoundError(f"No module named '{module}'", name=module)

        monkeypatch.setattr(cli, "app", app)
        monkeypatch.setattr(cli, "_add_plugged_commands", lambda: None)
        cli.main()

    monkeypatch.setattr(sys, "argv", ["rvosbench"])
    with pytest.raises(SystemExit) as ended:
        fails("huggingface_hub")
    assert ended.value.code == 2
    assert "'huggingface_hub'" in capsys.readouterr().err
    with pytest.raises(ModuleNotFoundError):
        fails("rvosbench.absent")


def test_a_package_that_cannot_be_loaded_loses_its_own_command_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add = cli._add_plugged_commands.__wrapped__

    def exit_code(*arguments: str) -> int:
        app = typer.Typer()
        app.command("works")(lambda: typer.echo("it works"))
        monkeypatch.setattr(cli, "app", app)
        monkeypatch.setattr(cli, "entry_points", lambda group: entries)
        monkeypatch.setattr(cli, "_add_plugged_commands", add)
        monkeypatch.setattr(sys, "argv", ["rvosbench", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0)

    entries = [
        EntryPoint("broken", "rvosbench.no_such_module:command", cli.COMMANDS_GROUP),
        EntryPoint("group.broken", "rvosbench.harness.cli:no_such_function", cli.COMMANDS_GROUP),
    ]
    assert exit_code("works") == 0 and "it works" in capsys.readouterr().out
    assert exit_code("broken", "--any", "argument") == 2
    assert "no_such_module" in capsys.readouterr().err
    assert exit_code("group", "broken") == 2
    assert "no_such_function" in capsys.readouterr().err
