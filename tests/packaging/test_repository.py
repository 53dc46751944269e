"""What the repository says to people and services is true of its files."""

from __future__ import annotations

import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
IMAGES = sorted((ROOT / "deploy").glob("Dockerfile.*"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@cache
def make_targets() -> frozenset[str]:
    return frozenset(re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def made(text: str) -> set[str]:
    """Targets that commands of the form ``make TARGET`` in a text name."""
    return set(re.findall(r"(?:^(?: {4})?|`|run: |&& )make ([a-z][a-z-]*)(?=[\s`,;:.)]|$)", text, re.MULTILINE))


def test_targets_that_make_does_not_have_are_found() -> None:
    """The checks below can fail."""
    assert made("run: make lint\n`make test-fast`\n    make demo    # all") == {"lint", "test-fast", "demo"}
    assert {"install", "install-score", "test", "test-slow"} <= make_targets()
    assert "VENV" not in make_targets() and "nonsense" not in make_targets()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_ask_for_few_rights_and_run_targets_that_exist(path: Path) -> None:
    workflow = load(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow[True], "when it runs; YAML reads the key 'on' as true"
    for name, job in workflow["jobs"].items():
        assert set(job.get("permissions", {})) <= {"id-token"}, name
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            assert "@" in step.get("uses", "@")
            assert made(step.get("run", "")) <= make_targets()


def test_a_release_is_published_without_tokens() -> None:
    text = (ROOT / ".github/workflows/release.yml").read_text()
    jobs = load(ROOT / ".github/workflows/release.yml")["jobs"]
    uses = {name: " ".join(step.get("uses", "") for step in job["steps"]) for name, job in jobs.items()}
    publishing = [name for name in jobs if "pypi-publish" in uses[name]]
    assert publishing and all(jobs[name]["permissions"] == {"id-token": "write"} for name in publishing)
    assert all(jobs[name].get("needs") and jobs[name].get("environment") for name in publishing)
    assert "secrets." not in text


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_issue_forms_are_forms(path: Path) -> None:
    form = load(path)
    if path.name == "config.yml":
        assert isinstance(form["blank_issues_enabled"], bool)
        return
    assert form["name"] and form["description"]
    for part in form["body"]:
        assert part["type"] in ("input", "textarea", "dropdown", "checkboxes", "markdown")
        assert part["attributes"]["value" if part["type"] == "markdown" else "label"]


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_images_copy_what_exists_and_do_not_depend_on_ignored_files(path: Path) -> None:
    lines = path.read_text().replace("\\\n", " ").splitlines()
    instructions = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    known = {"FROM", "ARG", "ENV", "COPY", "RUN", "USER", "WORKDIR", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in instructions} <= known
    assert any(name == "ENTRYPOINT" for name, _ in instructions)
    ignored = (ROOT / ".dockerignore").read_text().split()
    for name, rest in instructions:
        if name == "COPY" and "--from" not in rest:
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists() and source not in ignored
    assert made("\n".join(rest for name, rest in instructions if name == "RUN")) <= make_targets()
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    for name, rest in instructions:
        if name == "FROM":
            (minor,) = re.findall(r"^python:3\.(\d+)-slim", rest)
            assert requires == ">=3.11,<3.13" and 11 <= int(minor) < 13


def test_the_linter_before_a_commit_is_the_linter_of_make() -> None:
    repos = {repo["repo"].rsplit("/", 1)[-1]: repo for repo in load(ROOT / ".pre-commit-config.yaml")["repos"]}
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    assert repos["ruff-pre-commit"]["rev"] == f"v{pinned['ruff']}"
    assert all(repo["rev"] and repo["hooks"] for repo in repos.values())


def test_every_extra_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split()}
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    names = {re.split(r"[\[<>=!~; ]", line)[0].lower().replace("_", "-") for line in lines}
    assert names - {"rvosbench"} <= pinned


def test_the_changelog_has_the_form_it_names() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[(.+?)\]( - \d{4}-\d\d-\d\d)?$", text, re.MULTILINE)
    assert versions[0] == ("Unreleased", "") and all(date for _, date in versions[1:])
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_citation_file_has_what_the_format_demands() -> None:
    citation = load(ROOT / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["message"] and citation["title"] and all(author.get("name") for author in citation["authors"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["license"] == project["license"]
    assert citation["repository-code"] == project["urls"]["Source"] == load(ROOT / "mkdocs.yml")["repo_url"]
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in project["authors"]]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_pages_link_to_files_and_name_targets_that_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not target.startswith(("http://", "https://", "mailto:")):
            generated = path.parent.name == "docs" and target == "protocols.md"
            assert generated or (path.parent / target).exists(), target
    assert made(text) <= make_targets()


@cache
def commands() -> dict[str, set[str]]:
    """Command with its group -> its options."""
    from rvosbench.harness import cli

    cli._add_plugged_commands()
    found: dict[str, set[str]] = {}

    def walk(command: Any, name: str) -> None:
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        found[name] = options | {"--help"}
        for child, below in getattr(command, "commands", {}).items():
            walk(below, f"{name} {child}".strip())

    walk(get_command(cli.app), "")
    return found


def command_lines(text: str) -> list[str]:
    """Lines of code blocks that call rvosbench, continued ones joined, without comments."""
    joined = re.sub(r"\\\n\s*", " ", text)
    lines = (line.strip().removeprefix("$ ") for line in joined.splitlines())
    return [line.split(" #")[0].strip() for line in lines if re.match(r"(\.venv/bin/)?rvosbench ", line)]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_on_pages_exist_with_their_options(path: Path) -> None:
    for line in command_lines(path.read_text(encoding="utf-8")):
        words = line.split()[1:]
        known = commands()
        name = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
        if name.startswith("-"):
            name = ""
        assert name in known, line
        used = {word.split("=")[0] for word in words if word.startswith("--")}
        assert used <= known[name], line


def test_shell_scripts_parse() -> None:
    for path in (ROOT / ".ci" / "run", *(ROOT / "deploy").glob("*.sh"), *(ROOT / "deploy").glob("*.sbatch")):
        assert subprocess.run(["bash", "-n", str(path)], capture_output=True).returncode == 0, path
