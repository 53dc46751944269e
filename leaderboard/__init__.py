"""The leaderboard: published numbers beside reproduced runs."""
