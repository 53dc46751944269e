"""Where work runs: in process or on Ray."""
