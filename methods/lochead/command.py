from harness.errors import PrerequisiteError


def calibrate() -> None:
    raise PrerequisiteError("Not built yet.")
