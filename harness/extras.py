"""Optional packages: which extra of ``rvosbench`` brings a module, and the command that installs it here."""

from __future__ import annotations

from pathlib import Path

from rvosbench.harness.errors import PrerequisiteError

EXTRAS: dict[str, tuple[str, ...]] = {
    "models": (
        "torch",
        "torchvision",
        "transformers",
        "tokenizers",
        "safetensors",
        "accelerate",
        "huggingface_hub",
        "openai",
    ),
    "sam2": ("sam2", "hydra", "omegaconf", "iopath"),
    "cluster": ("ray",),
    "tracking": ("mlflow",),
    "leaderboard": ("streamlit", "altair", "matplotlib"),
}
"""Extra -> the modules it brings that the base install lacks."""
_ROOT = Path(__file__).resolve().parents[1]


def install_command(extra: str, root: Path = _ROOT) -> str:
    """The command that installs an extra: pinned in a checkout, from the package index elsewhere."""
    if (root / "pyproject.toml").is_file() and (root / "constraints.txt").is_file():
        return f"uv pip install -c {root / 'constraints.txt'} -e '{root}[{extra}]'"
    return f"pip install 'rvosbench[{extra}]'"


def missing_package(error: ModuleNotFoundError) -> PrerequisiteError | None:
    """What to tell a user whose install lacks the extra of a module; None where no extra brings that module."""
    module = (error.name or "").partition(".")[0]
    for extra, modules in EXTRAS.items():
        if module in modules:
            return PrerequisiteError(
                f"This needs the package '{module}', which is not installed.",
                f"Install the extra: {install_command(extra)}",
            )
    return None
