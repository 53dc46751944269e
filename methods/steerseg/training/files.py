"""The folder of a training.

    training.yaml            the resolved recipe
    attributes.json          attributes that the model generated for the expressions, if any
    steps.jsonl              one line a step: losses, learning rate, gradient norm
    metrics.jsonl            one line per evaluation of the held-out videos, of each call
    state-<prompt>.pt        where the training of that prompt stands
    prompts/                 the result (see ``rvosbench.methods.steerseg.prompt_files``)
    pictures/                held-out maps without and with the prompt
    error.json               why a worker stopped, if one did

Only the first worker writes. A state is replaced whole, by a rename; lines written after it are dropped when the
training goes on from it and are then written again, the same ones.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.methods.steerseg.prompt_files import Role

if TYPE_CHECKING:
    from torch import Tensor

RECIPE, STEPS, METRICS, ATTRIBUTES = "training.yaml", "steps.jsonl", "metrics.jsonl", "attributes.json"
PROMPTS, PICTURES, ERROR = "prompts", "pictures", "error.json"
Line = Mapping[str, str | int | float | bool]


@dataclass(frozen=True, eq=False)
class State:
    """Where the training of a prompt stands."""

    step: int
    """Steps done."""
    vectors_nD: Tensor
    """Float32."""
    optimiser: Mapping[str, Any]
    losses: Mapping[str, float]
    """For the card."""


class TrainingFolder:
    """Reads and writes the files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, name: str, line: Line) -> None:
        """One line more, in one write."""
        with (self.path / name).open("ab") as file:
            file.write(json.dumps(dict(line)).encode() + b"\n")

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The whole lines; the last one may have been cut off by a kill.

        Raises:
            PrerequisiteError: a line is no JSON object.
        """
        path = self.path / name
        if not path.is_file():
            return []
        text = path.read_bytes()
        return [_line(line, path) for line in text[: text.rfind(b"\n") + 1].splitlines()]

    def rewind(self, prompt: Role, step: int) -> None:
        """Drops the lines about a prompt that were written after a state of ``step`` steps."""
        for name in (STEPS, METRICS):
            kept = [line for line in self.lines(name) if line["prompt"] != prompt or line["step"] <= step]
            self.replace(name, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def replace(self, name: str, content: bytes) -> None:
        """Writes a file whole: what was there stays until then."""
        temporary = self.path / f".{name}.tmp"
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path / name)

    def save(self, prompt: Role, state: State, fingerprint: str) -> None:
        """Replaces the prompt's state."""
        import io

        import torch

        content = io.BytesIO()
        held = {"fingerprint": fingerprint, **vars(state), "vectors_nD": state.vectors_nD.detach().cpu()}
        torch.save(held, content)
        self.replace(f"state-{prompt}.pt", content.getvalue())

    def load(self, prompt: Role, fingerprint: str) -> State | None:
        """The prompt's state; None where there is none yet.

        Raises:
            PrerequisiteError: damaged, or of another model or data.
        """
        import pickle
        import zipfile

        import torch

        path = self.path / f"state-{prompt}.pt"
        if not path.is_file():
            return None
        try:
            held = torch.load(path, map_location="cpu", weights_only=True)
            stored = held.pop("fingerprint")
            state = State(**held)
        except (
            OSError,
            RuntimeError,
            EOFError,
            pickle.UnpicklingError,
            KeyError,
            TypeError,
            AttributeError,
            ValueError,
            IndexError,
            MemoryError,
            zipfile.BadZipFile,
        ) as error:
            raise PrerequisiteError(
                f"{path} cannot be read: {' '.join(str(error).split())[:200]}.", "Remove it to train from the start."
            ) from error
        if stored != fingerprint:
            raise PrerequisiteError(
                f"{path} belongs to a training with another model, data or attributes under the same recipe.",
                "Give the recipe another name, or remove the folder.",
            )
        return state

    def fail(self, error: PrerequisiteError) -> None:
        """Keeps why a worker stopped, for whoever started it."""
        self.replace(ERROR, json.dumps([error.problem, error.fix]).encode())

    def failure(self) -> PrerequisiteError | None:
        """Why a worker stopped."""
        path = self.path / ERROR
        return PrerequisiteError(*json.loads(path.read_bytes())) if path.is_file() else None


def _line(text: bytes, path: Path) -> dict[str, Any]:
    # Not by the reader of outside files: a loss that is not finite is NaN in this one.
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PrerequisiteError(
            f"{path} holds a line that is not JSON.", "Remove the folder to train again."
        ) from error
    if not isinstance(value, dict):
        raise PrerequisiteError(f"{path} holds a line that is no JSON object.", "Remove the folder to train again.")
    return value
