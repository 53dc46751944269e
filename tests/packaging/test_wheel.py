"""What is installed: one import package that scores masks in an empty environment, whatever lies in the folder.

Building takes packages from the registry, so these are marked slow.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import numpy as np
import pytest
from clips import square, write_dataset
from pages import DOCS, write_files
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
UV = Path(sys.executable).with_name("uv")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not UV.is_file(), reason="uv is not beside this Python (make install)"),
]


def run(*command: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a program that knows nothing of this checkout."""
    hidden = ("PYTHONPATH", "VIRTUAL_ENV", "RVOSBENCH_DATA")
    environment = {name: value for name, value in os.environ.items() if name not in hidden} | variables
    return subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True)


def build(source: Path, target: Path) -> Path:
    """The wheel, by way of the source archive, as a release is built."""
    done = run(UV, "build", "--quiet", "--python", sys.executable, "--out-dir", target, cwd=source)
    assert done.returncode == 0, done.stderr
    (wheel,) = target.glob("*.whl")
    return wheel


def export(target: Path) -> Path:
    """The files of the working tree that git tracks or would track, without its history."""
    listed = run("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).stdout.splitlines()
    for name in listed:
        source, copy = ROOT / name, target / name
        if name.startswith("checkpoints/") or not (source.exists() or source.is_symlink()):
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, copy, follow_symlinks=False)
    return target


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tree, tmp_path_factory.mktemp("dist"))


def install(wheel: Path, extras: str, folder: Path) -> Path:
    """The bin folder of a new environment that holds the wheel with some extras, as pinned."""
    assert run(UV, "venv", "--quiet", "--python", sys.executable, folder, cwd=folder.parent).returncode == 0
    command = (UV, "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", f"{wheel}{extras}")
    done = run(*command, cwd=folder.parent, VIRTUAL_ENV=str(folder))
    assert done.returncode == 0, done.stderr
    return folder / "bin"


@pytest.fixture(scope="module")
def scorer(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base install."""
    return install(wheel, "", tmp_path_factory.mktemp("environment") / "venv")


@pytest.fixture
def among_namesakes(tmp_path: Path) -> Path:
    """A working folder that has packages named as our folders are, and that fail when they are imported."""
    for name in ("harness", "methods", "leaderboard", "datasets"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('not this one')")
    return tmp_path


def test_the_wheel_holds_one_package_with_its_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"rvosbench"}
    inside = {name.removeprefix("rvosbench/") for name in names if name.startswith("rvosbench/")}
    assert "py.typed" in inside
    code = {f"{folder}/{path.relative_to(ROOT / folder)}" for folder in ("harness", "methods", "leaderboard")
            for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".csv", ".yaml", ".md")}  # fmt: skip
    data = {f"recipes/{path.relative_to(ROOT / 'recipes')}" for path in (ROOT / "recipes").rglob("*.yaml")}
    data |= {f"cards/{path.name}" for path in (ROOT / "datasets").iterdir()}
    assert inside >= code | data
    assert not any(part in name for name in inside for part in ("__pycache__", "tests/", "toy/", ".safetensors"))


def test_the_metadata_says_what_and_where(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    assert metadata["License-Expression"] == "Apache-2.0" and metadata["Author"]
    assert len(metadata.get_all("Project-URL", [])) >= 3 and len(metadata.get_all("Classifier", [])) >= 5
    needs = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert needs and not any(line.startswith(("torch", "ray", "transformers", "streamlit")) for line in needs)


def test_commits_between_releases_have_versions_of_their_own(tree: Path, tmp_path: Path) -> None:
    """Without git the fallback, untagged a commit's hash, tagged the tag, and after it the next one's development."""
    source = tmp_path / "source"
    shutil.copytree(tree, source, symlinks=True)

    def version(name: str) -> str:
        return build(source, tmp_path / name).name.split("-")[1]

    def commit() -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
        assert run("git", *who, "commit", "-q", "--allow-empty", "-m", "x", cwd=source).returncode == 0
        return run("git", "rev-parse", "HEAD", cwd=source).stdout.strip()[:7]

    assert version("archive") == "0.1.0.dev0"
    run("git", "init", "-q", cwd=source)
    run("git", "add", "-A", cwd=source)
    first = commit()
    assert f"+g{first}" in version("untagged")
    run("git", "tag", "v0.7.0", cwd=source)
    assert version("tagged") == "0.7.0"
    second = commit()
    assert version("later").startswith("0.7.1.dev1+g" + second)


def test_the_base_install_scores_beside_folders_of_the_same_names(scorer: Path, among_namesakes: Path) -> None:
    tmp_path = among_namesakes
    write_dataset(tmp_path / "data", {"a": ["the square"]})
    masks = tmp_path / "masks" / "a" / "0"
    masks.mkdir(parents=True)
    for index in range(4):
        Image.fromarray(square(index).astype(np.uint8) * 255).save(masks / f"{index:05d}.png")
    command = scorer / "rvosbench"
    arguments = ("score", "masks", "--dataset", "shapes", "--data-root", "data", "--out", "scores")
    done = run(command, *arguments, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "100.0" in done.stdout
    for arguments in (
        ("--version",),
        ("datasets", "list", "--data-root", "data"),
        ("methods",),
        ("doctor",),
        ("--help",),
    ):
        done = run(command, *arguments, cwd=tmp_path, PYTHONPATH=str(tmp_path))
        assert done.returncode == 0 and done.stdout and "Traceback" not in done.stderr, (arguments, done.stderr)
    modules = "import sys, rvosbench.harness.cli; print([m for m in ('torch', 'ray', 'mlflow') if m in sys.modules])"
    assert run(scorer / "python", "-c", modules, cwd=tmp_path).stdout.strip() == "[]"


def test_commands_of_other_extras_say_which(scorer: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", {"a": ["the square"]})
    (tmp_path / "recipe.yaml").write_text(
        "{name: x, data_root: data, datasets: [{name: shapes}], methods: [{method: decaf}], lvlms: [x/y]}"
    )
    for arguments in (("run", "recipe.yaml"), ("leaderboard",)):
        done = run(scorer / "rvosbench", *arguments, cwd=tmp_path)
        assert done.returncode == 2, (arguments, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr and "install" in done.stderr.lower(), done.stderr


def test_the_extras_run_track_and_show_beside_folders_of_the_same_names(
    wheel: Path, among_namesakes: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A method from a file, on Ray, mirrored to MLflow and listed: sam2 alone is left out, whose build needs torch."""
    folder = among_namesakes
    extras = install(wheel, "[cluster,tracking,leaderboard]", tmp_path_factory.mktemp("extras") / "venv")
    write_files(DOCS / "first_method.md", folder)
    write_dataset(folder / "data", {"a": ["the square"]})
    for arguments, expected in (
        (("plan", "moving.yaml", "--set", "executor.kind=ray"), "segment"),
        (
            ("run", "moving.yaml", "--set", "executor.kind=ray", "--set", "executor.object_store_gb=0.1"),
            "computed, 0 reused",
        ),
        (("sync",), "mirrored"),
        (("leaderboard", "--scores"), "What moves"),
        (("leaderboard", "--export", "csv"), "What moves"),
        (("doctor",), "ray"),
    ):
        for _ in range(5):
            done = run(extras / "rvosbench", *arguments, cwd=folder, PYTHONPATH=str(folder), COLUMNS="200")
            if "too busy" not in done.stderr:
                break  # Ray gives itself half a minute to start, which a busy machine may not keep
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        assert expected in done.stdout, (arguments, done.stdout)
