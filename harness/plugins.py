"""Python files that a recipe names, loaded by their path: a method needs no packaging.

A file's module has a name of its own, made of the file's name and place, so that a file called ``json.py`` hides
nothing and nothing hides it; other files of its folder can be imported by it, after everything that is installed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from rvosbench.harness.errors import PrerequisiteError


def module_name(path: Path) -> str:
    """The name of a file's module: the same in every process that sees the file at this place."""
    resolved = path.resolve()
    return f"rvosbench_file_{hashlib.sha256(str(resolved).encode()).hexdigest()[:12]}_{resolved.stem}"


def load_file(path: Path) -> ModuleType:
    """The module of a file; loaded once in each process.

    Raises:
        PrerequisiteError: there is no such file, or it cannot be imported; one sentence says why and where.
    """
    name = module_name(path)
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise PrerequisiteError(f"There is no file {path}.", "Paths of methods are relative to the recipe.")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PrerequisiteError(f"{path} is no Python file.", "The name of a method's file ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except PrerequisiteError:
        del sys.modules[name]
        raise
    except (Exception, SystemExit) as error:
        # Whatever a user's file raises is the file's fault, and no other work depends on it.
        del sys.modules[name]
        raise PrerequisiteError(f"{path} cannot be imported: {_reason(error, path)}.", "Correct the file.") from error
    return module


def _reason(error: BaseException, path: Path) -> str:
    """Kind, message and the last line of the file itself that was running."""
    line = None if not isinstance(error, SyntaxError) else error.lineno
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == str(path):
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    where = f" (line {line})" if line is not None else ""
    text = " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split()).rstrip(".")
    return f"{type(error).__name__}: {text}{where}"
