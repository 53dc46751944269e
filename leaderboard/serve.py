"""How the leaderboard is started: the Streamlit command line with the house theme, on the loopback address."""

from __future__ import annotations

import sys
from pathlib import Path

APP = Path(__file__).with_name("app.py")
_THEME = {
    "base": "light",
    "primaryColor": "#0f766e",
    "textColor": "#1f2933",
    "backgroundColor": "#ffffff",
    "secondaryBackgroundColor": "#f5f7f9",
    "baseRadius": "6px",
}


def command(runs_root: Path, port: int = 8501, address: str = "127.0.0.1") -> list[str]:
    """The command that serves the leaderboard of a runs folder; run it in the foreground.

    ``address`` decides who may connect: the pages have no login.
    """
    options = {
        "server.headless": "true",
        "server.address": address,
        "server.port": str(port),
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "minimal",
        **{f"theme.{name}": value for name, value in _THEME.items()},
    }
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    return [sys.executable, "-P", "-m", "streamlit", "run", str(APP), *flags, "--", "--runs", str(runs_root.resolve())]
