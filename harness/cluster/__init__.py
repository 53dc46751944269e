"""Where the work runs: in this process, or on pools of Ray actors."""
