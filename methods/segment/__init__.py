"""Segment: from maps, points or boxes to masks."""
