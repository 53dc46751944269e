from harness.errors import PrerequisiteError


def steerseg_table() -> None:
    raise PrerequisiteError("Not built yet.")
