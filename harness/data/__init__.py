"""Cards -> videos, expressions, ground truth. Imports nothing from pipeline or cluster."""
