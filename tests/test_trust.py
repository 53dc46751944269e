"""What a stranger's recipe or run folder can and cannot do unasked."""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from clips import write_dataset
from fake_server import FakeServer

from rvosbench.harness import cli
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.recipes import Recipe, dump_recipe, load_recipe
from rvosbench.harness.results.mlflow import flat_params
from rvosbench.harness.results.reader import find_runs
from rvosbench.harness.secrets import is_secret, redacted_text
from rvosbench.harness.servers import ModelServer
from rvosbench.harness.serving.serving import serving
from rvosbench.harness.trust import Trust, host_of, is_local, user_trust
from rvosbench.harness.yaml_files import parse_yaml
from rvosbench.leaderboard.serve import command

REMOTE = "203.0.113.7"  # of the block that documentation may use: no machine has it


def recipe(**values: Any) -> Recipe:
    base = {"name": "trial", "datasets": [{"name": "shapes"}], "methods": [{"method": "bright"}]}
    return Recipe.checked({**base, "tracking": {"enabled": False}, **values})


@pytest.mark.parametrize(
    ("wish", "allowed", "override"),
    [
        ({"serving": {"endpoints": [f"http://{REMOTE}:8000"]}}, Trust((REMOTE,)), "serving.endpoints=[x]"),
        ({"serving": {"endpoints": ["http://u:p@models.example:1/v1"]}}, Trust(("models.example",)), "serving={}"),
        ({"executor": {"address": f"{REMOTE}:6379"}}, Trust((REMOTE,)), "executor.address=x"),
        ({"executor": {"address": f"ray://{REMOTE}:10001"}}, Trust((REMOTE,)), "executor.address=x"),
        ({"tracking": {"uri": f"https://bob:pw@{REMOTE}/x"}}, Trust((REMOTE,)), "tracking.uri=x"),
        ({"tracking": {"uri": f"postgresql://a:b@{REMOTE}/x"}}, Trust((REMOTE,)), "tracking.uri=x"),
    ],
)
def test_what_leaves_this_machine_needs_permission(wish: dict[str, Any], allowed: Trust, override: str) -> None:
    with pytest.raises(PrerequisiteError) as caught:
        Trust().require(recipe(**wish))
    assert "--allow" in caught.value.fix and "\n" not in str(caught.value)
    allowed.require(recipe(**wish))
    Trust().require(recipe(**wish), (override,))
    with pytest.raises(PrerequisiteError):
        Trust().require(recipe(**wish), ("executor.kind=ray",))


@pytest.mark.parametrize(
    "wish",
    [
        {"serving": {"endpoints": ["http://127.0.0.1:8000", "http://localhost:1", "http://[::1]:8000"]}},
        {"serving": {"engine": {"gpu_memory_utilization": 0.8, "max_num_seqs": 4}}},
        {"executor": {"address": "auto"}},
        {"executor": {"address": "127.0.0.1:6379"}},
        {"tracking": {"uri": "sqlite:////tmp/x.db"}},
        {"tracking": {"uri": "http://127.0.0.1:5000"}},
        {"tracking": {"uri": f"http://{REMOTE}", "enabled": False}},
    ],
)
def test_this_machine_is_free(wish: dict[str, Any]) -> None:
    Trust().require(recipe(**wish))


def test_hosts() -> None:
    assert is_local("127.8.8.8") and is_local("::1") and is_local("localhost")
    assert not is_local(REMOTE) and not is_local("localhost.example") and not is_local("")
    assert host_of("HTTP://a:b@Host.Example:80/x") == "host.example" and host_of("10.0.0.3:6379") == "10.0.0.3"


def test_the_users_configuration_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert user_trust() == Trust()
    path = tmp_path / "rvosbench/config.yaml"
    path.parent.mkdir()
    path.write_text(f"allow: {{hosts: [{REMOTE}]}}\n")
    assert user_trust() == Trust((REMOTE,))
    for text in ("allow: {host: [x]}", "allow: 3", "[", "allow: {hosts: {a: 1}}"):
        path.write_text(text)
        with pytest.raises(PrerequisiteError):
            user_trust()


@pytest.mark.parametrize(
    "name", ["SOME_CLOUD_SECRET", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "RVOSBENCH_DATA", "KEY", ""]
)
def test_only_variables_meant_for_it_are_sent_as_a_key(tmp_path: Path, name: str) -> None:
    path = tmp_path / "recipe.yaml"
    values = {"name": "t", "datasets": [{"name": "shapes"}], "methods": [{"method": "bright"}]}
    path.write_text(yaml.safe_dump({**values, "serving": {"key_variable": name}}))
    with pytest.raises(PrerequisiteError, match="key_variable"):
        load_recipe(path)
    path.write_text(yaml.safe_dump({**values, "serving": {"key_variable": "RVOSBENCH_LAB_KEY_2"}}))
    load_recipe(path)


def test_the_host_is_said_before_the_key_is_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RVOSBENCH_SERVER_KEY", "of-the-user")
    said: list[str] = []
    with FakeServer(model="small", key="of-the-user") as server:
        choice = recipe(serving={"endpoints": [server.url]}).serving
        with serving(ModelServer("m", "small"), choice, None, tmp_path, said.append):  # type: ignore[arg-type]
            pass
    assert "RVOSBENCH_SERVER_KEY" in said[0] and "127.0.0.1" in said[0]
    assert not any("of-the-user" in line for line in said)


SECRETS = {
    "serving": {
        "endpoints": ["http://user:ENDPOINTPW@10.0.0.3:8000"],
    },
    "tracking": {"uri": "https://bob:TRACKPW@mlflow.lab?token=QUERYTOKEN"},
    "methods": [{"method": "x", "settings": {"api_key": "sk-INSETTINGS", "max_new_tokens": 5, "seg_token": "[SEG]"}}],
}


def test_secrets_are_kept_nowhere() -> None:
    text = dump_recipe(recipe(**SECRETS))
    params = " ".join(flat_params(recipe(**SECRETS).plain()).values())
    for secret in ("PW", "SECRET", "QUERYTOKEN", "INSETTINGS"):
        assert secret not in text and secret not in params
    for kept in ("10.0.0.3", "[SEG]", "bob"):
        assert kept in text
    assert yaml.safe_load(text)["methods"][0]["settings"]["max_new_tokens"] == 5


def test_a_run_folder_without_its_secret_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(recipe(**SECRETS)))
    with pytest.raises(PrerequisiteError, match="run folders do not keep"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        *((name, True) for name in ("HF_TOKEN", "--api-key", "apiKey", "db_password", "AWS_SECRET_ACCESS_KEY")),
        *((name, False) for name in ("token", "extra_tokens", "keyframes", "key_variable", "key", "seg_token")),
    ],
)
def test_names_of_secrets(name: str, secret: bool) -> None:
    assert is_secret(name) is secret


def test_texts_lose_passwords() -> None:
    text = "no answer from postgresql://a:p@ss@h/db and https://abcdef@h; Authorization: Bearer abcdef123456"
    found = redacted_text(text)
    assert "p@ss" not in found and "abcdef" not in found and "@h/db" in found


def test_children_do_not_import_from_the_working_folder(tmp_path: Path) -> None:
    line = command(tmp_path, 1)
    assert line[0] == sys.executable and "-P" in line[1 : line.index("-m")]


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["rvosbench", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out + captured.err

    return run


def write_run(folder: Path, **values: Any) -> Path:
    write_dataset(folder / "data", {"a": ["one"]})
    plain = {"name": "trial", "data_root": str(folder / "data"), "runs": str(folder / "runs")}
    plain |= {"datasets": [{"name": "shapes"}], "methods": [{"method": "bright"}]}
    plain |= {"executor": {"kind": "inprocess"}, "tracking": {"enabled": False}, **values}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(plain))
    return folder / "recipe.yaml"


def test_a_run_and_a_resumed_run_are_refused_alike(tmp_path: Path, run: Run) -> None:
    path = write_run(tmp_path, serving={"endpoints": [f"http://{REMOTE}:8000"]})
    code, text = run("run", str(path))
    assert code == 2 and f"--allow {REMOTE}" in text
    assert not (tmp_path / "runs").exists()
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    path.rename(stranger / "recipe.yaml")
    code, text = run("run", "--resume", str(stranger))
    assert code == 2 and f"--allow {REMOTE}" in text
    assert run("run", "--resume", str(stranger), "--allow", REMOTE)[0] == 0


@pytest.mark.parametrize("key", ["command", "environment", "flags"])
def test_a_recipe_cannot_name_programs_or_their_environment(tmp_path: Path, run: Run, key: str) -> None:
    marker = str(tmp_path / "marker")
    value = {"PYTHONSTARTUP": marker} if key == "environment" else ["touch", marker]
    code, text = run("run", str(write_run(tmp_path, serving={key: value})))
    assert code == 2 and f"serving.{key}" in text
    assert not (tmp_path / "runs").exists() and not (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", [".lock", "events.jsonl", "servers", "scores.json", "servers/x.log"])
def test_links_in_a_run_folder_are_not_written_through(tmp_path: Path, run: Run, name: str) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "stranger"
    victim.write_text("one line of text\n")
    folder.mkdir()
    write_run(tmp_path).rename(folder / "recipe.yaml")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).symlink_to(victim)
    code, text = run("run", "--resume", str(folder))
    assert code == 2 and "is a link" in text
    assert victim.read_text() == "one line of text\n"


def test_files_of_a_run_have_the_users_permissions(tmp_path: Path, run: Run) -> None:
    path = write_run(tmp_path)
    before = os.umask(0o077)
    try:
        assert run("run", str(path))[0] == 0
    finally:
        os.umask(before)
    files = [file for file in (tmp_path / "runs").rglob("*") if file.is_file()]
    assert len(files) > 8
    assert {stat.S_IMODE(file.stat().st_mode) & 0o077 for file in files} == {0}


LAUGHS = "\n".join(
    ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"] + [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
)


@pytest.mark.parametrize(
    "text",
    [
        LAUGHS,
        "a: 1\na: 2",
        "a: {b: 1, c: 2, b: 3}",
        "a: !!float x",
        "a: !!timestamp x",
        "a: 2001-99-99",
        "a: 2001-01-01",
        "a: !!set {a, b}",
        "a: !!int abc",
        "a: !!binary '###'",
        "a: !!omap [b: 1]",
        "a: !!python/object/apply:os.getcwd []",
        "a: &a [*a]",
        "a: *missing",
        "a: .nan",
        "a: .inf",
        "a: " + "9" * 5000,
        "a: " + "[" * 2000,
        "a: " + "[" * 200 + "]" * 200,
        'a: "\\ud800"',
        "{? [1] : 2}",
        "a: b: c",
        "- \t- x: [",
        "a: 0x",
    ],
)
def test_yaml_that_is_no_plain_value_is_refused_in_one_sentence(text: str, tmp_path: Path, run: Run) -> None:
    if text == "a: 0x":
        assert parse_yaml(text, "x") == {"a": "0x"}
        return
    with pytest.raises(PrerequisiteError) as caught:
        parse_yaml(text, "the file")
    assert "\n" not in str(caught.value) and "the file" in caught.value.problem


def test_a_bad_recipe_hides_no_other_run(tmp_path: Path, run: Run) -> None:
    path = write_run(tmp_path)
    assert run("run", str(path))[0] == 0
    (good,) = (folder for folder in (tmp_path / "runs").iterdir() if folder.name.startswith("trial-"))
    for number, text in enumerate(("when: 2001-99-99", "a: " + "9" * 5000, LAUGHS, "a: 1\na: 2", "a: !!set {x}")):
        bad = tmp_path / f"runs/bad{number}"
        bad.mkdir()
        for file in good.iterdir():
            (bad / file.name).write_bytes(file.read_bytes())
        (bad / "recipe.yaml").write_text(text)
    found = find_runs(tmp_path / "runs")
    assert [one.folder for one in found.runs] == [good]
    assert len(found.broken) == 5


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "3",
        '{"time": "x"}',
        '{"key": [1], "stage": {}}',
        "9" * 5000,
        "[" * 3000,
        '"\\ud800"',
        '{"seconds": NaN}',
    ],
)
def test_lines_nobody_wrote_into_the_event_log_are_passed_over(tmp_path: Path, run: Run, line: str) -> None:
    path = write_run(tmp_path)
    assert run("run", str(path))[0] == 0
    (folder,) = (folder for folder in (tmp_path / "runs").iterdir() if folder.name.startswith("trial-"))
    log = folder / "events.jsonl"
    log.write_bytes(line.encode() + b"\n" + log.read_bytes() + line.encode())
    code, text = run("run", "--resume", str(folder))
    assert code == 0 and "0 computed" in text


def test_a_local_cluster_listens_on_loopback_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import ray

    from rvosbench.harness.execute.ray_pool import RayExecutor

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    asked: dict[str, Any] = {}
    monkeypatch.setattr(ray, "init", lambda **values: asked.update(values))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    RayExecutor(recipe().executor, tmp_path)._connect()
    assert socket.gethostbyname(asked["_node_ip_address"]) == "127.0.0.1" and asked["include_dashboard"] is False


def test_an_edited_score_is_not_believed(tmp_path: Path, run: Run) -> None:
    path = write_run(tmp_path)
    assert run("run", str(path))[0] == 0
    (folder,) = (folder for folder in (tmp_path / "runs").iterdir() if folder.name.startswith("trial-"))
    scores = json.loads((folder / "scores.json").read_text())
    for name in ("J", "F", "J_and_F"):
        scores["scores"][0][name] = 0.99
    (folder / "scores.json").write_text(json.dumps(scores))
    found = find_runs(tmp_path / "runs")
    assert not found.runs and "changed after it was written" in found.broken[0].reason
