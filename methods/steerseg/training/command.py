from harness.errors import PrerequisiteError


def train() -> None:
    raise PrerequisiteError("Not built yet.")
