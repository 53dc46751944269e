"""Stages, work items, artefact store, planning: what to compute and what is already there."""
