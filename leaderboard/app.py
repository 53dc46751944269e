"""Entry of the leaderboard: ``streamlit run leaderboard/app.py -- --runs runs`` (or ``rvosbench leaderboard``)."""

from __future__ import annotations

import streamlit as st

from rvosbench.leaderboard.ui import STYLE

st.set_page_config(page_title="rvosbench", layout="wide")
st.html(STYLE)
st.navigation(
    [
        st.Page("views/board.py", title="Leaderboard", url_path="leaderboard", default=True),
        st.Page("views/runs.py", title="Runs", url_path="runs"),
        st.Page("views/run.py", title="Run", url_path="run"),
    ],
    position="top",
).run()
