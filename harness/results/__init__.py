"""Run folders: their schema, writer, reader and MLflow mirror."""
