"""Attention rollout: Q/K capture, the row recursion, map fusion."""
