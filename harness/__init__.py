"""The engine: data, pipeline, scoring, results. It imports no method by name."""
