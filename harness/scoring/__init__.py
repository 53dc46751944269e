"""Mask kernel, protocols, statistics, submission archives. CPU only, no torch."""
