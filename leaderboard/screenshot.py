"""Takes pictures of the leaderboard's pages: ``python -m rvosbench.leaderboard.screenshot RUNS OUT_FOLDER``.

Needs the packages streamlit and playwright, and a chromium (``--browser``, default /usr/bin/chromium).
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.results.reader import find_runs
from rvosbench.leaderboard.serve import command

PAGES = {"leaderboard": "", "chart": "", "rows": "", "runs": "runs", "run": "run"}
"""Picture -> page; "chart" and "rows" are tabs of the first one."""
_TABS = {"chart": "Chart", "rows": "All rows"}
_START_SECONDS = 60.0


@contextmanager
def served(runs_root: Path) -> Iterator[str]:
    """The address of a leaderboard on a free loopback port, up and healthy; stopped at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(command(runs_root, port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _healthy(address):
            if server.poll() is not None or time.monotonic() > deadline:
                raise PrerequisiteError("The leaderboard did not start.", "Try: rvosbench leaderboard")
            time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait(10)


def take(address: str, out: Path, browser: str, run: str, width: int = 1360, height: int = 900) -> list[Path]:
    """One PNG per picture of `PAGES`, whole pages; ``run`` is the run that the run page shows.

    Raises:
        RuntimeError: a page reported a script error (a chart that cannot be drawn stays silent otherwise).
    """
    from playwright.sync_api import sync_playwright

    out.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    errors: list[str] = []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": width, "height": height}, device_scale_factor=1.5)
        page.on("pageerror", lambda error: errors.append(str(error)))
        for name, path in PAGES.items():
            page.set_viewport_size({"width": width, "height": height})
            page.goto(f"{address}/{path}?{urlencode({'run': run}) if path == 'run' else ''}")
            page.wait_for_selector(".rv-head", timeout=60_000)
            _settle(page)
            if name in _TABS:
                page.get_by_role("tab", name=_TABS[name]).click()
                _settle(page)
            # Streamlit scrolls inside the page: the window must be as tall as its content.
            tall = page.evaluate("document.querySelector('[data-testid=stMainBlockContainer]').scrollHeight")
            page.set_viewport_size({"width": width, "height": int(min(max(tall, height), 4000))})
            _settle(page)
            target = out / f"{name}.png"
            page.screenshot(path=target)
            written.append(target)
            if errors:
                raise RuntimeError(f"page {name}: {errors[0]}")
        chromium.close()
    return written


def _settle(page: object) -> None:
    """Waits until no script runs and fonts, pictures and charts are drawn."""
    page.wait_for_function(  # type: ignore[attr-defined]
        "!document.querySelector('[data-testid=stApp]') "
        "|| document.querySelector('[data-testid=stApp]').dataset.testScriptState !== 'running'"
    )
    page.wait_for_load_state("networkidle")  # type: ignore[attr-defined]
    page.wait_for_timeout(700)  # type: ignore[attr-defined]


def _healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/_stcore/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description="Takes pictures of the leaderboard's pages.")
    parser.add_argument("runs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--run", help="the run to open (default: the newest with scores)")
    parser.add_argument("--browser", default="/usr/bin/chromium")
    options = parser.parse_args()
    run = options.run or next((run.id for run in find_runs(options.runs).runs if run.scores), "")
    with served(options.runs) as address:
        for path in take(address, options.out, options.browser, run):
            print(path)


if __name__ == "__main__":
    main()
