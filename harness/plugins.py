"""Python files that a recipe names, loaded by their path: a method needs no packaging.

A file is a module of a package that stands for its folder, whose name is made of the folder's place: a file called
``json.py`` hides nothing, and files of two folders may have the same name. Files and packages beside it are imported
by their plain names, ``import helper``, which mean something in that folder's files alone. A name that is also that of
an installed module is refused there, because it has two meanings; only a file called so itself means the installed one.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib.util
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType

from rvosbench.harness.errors import PrerequisiteError

_PREFIX = "rvosbench_file_"
PACKAGE_OF_A_FILE = re.compile(rf"\b{_PREFIX}[0-9a-f]{{12}}\.")
"""Before the file's own name in the name of its module."""


def module_name(path: Path) -> str:
    """The name of a file's module: the same in every process that sees the file at this place."""
    resolved = path.resolve()
    return f"{_PREFIX}{hashlib.sha256(str(resolved.parent).encode()).hexdigest()[:12]}.{resolved.stem}"


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
    if path.suffix != ".py":
        raise PrerequisiteError(f"{path} is no Python file.", "The name of a method's file ends in .py.")
    _make_package(name.partition(".")[0], path.resolve().parent)
    loader = _Loader(name, str(path.resolve()))
    spec = importlib.util.spec_from_file_location(name, path.resolve(), loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except PrerequisiteError:
        del sys.modules[name]
        raise
    except (Exception, SystemExit) as error:
        # Whatever a user's file raises is the file's fault, and no other work depends on it.
        del sys.modules[name]
        raise PrerequisiteError(f"{path} cannot be imported: {_reason(error, path)}.", "Correct the file.") from error
    return module


def _make_package(name: str, folder: Path) -> None:
    """The package that stands for a folder."""
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    if name not in sys.modules:
        package = ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package


class _Loader(SourceFileLoader):
    """Loads a file whose import statements find what lies beside the method's file."""

    def exec_module(self, module: ModuleType) -> None:
        package = sys.modules[module.__name__.partition(".")[0]]
        beside = _Beside(package.__name__, Path(package.__path__[0]))
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": beside.import_module}
        super().exec_module(module)


class _Finder(MetaPathFinder):
    """Gives the modules of the folders' packages their loader."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is None or not fullname.startswith(_PREFIX):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(fullname, spec.origin)
        return spec


_FINDER = _Finder()


class _Beside:
    """The import statement of a folder's files."""

    def __init__(self, package: str, folder: Path) -> None:
        self._package = package
        self._folder = folder
        self._known: dict[str, bool] = {}

    def import_module(
        self,
        name: str,
        globals_: Mapping[str, object] | None = None,
        locals_: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """What ``builtins.__import__`` does, called by position as Python does, with what lies in the folder."""
        top = name.partition(".")[0]
        importer = None if globals_ is None else globals_.get("__file__")
        if level or not self._holds(top, importer):
            return builtins.__import__(name, globals_, locals_, fromlist or (), level)
        module = builtins.__import__(f"{self._package}.{name}", globals_, locals_, fromlist or (), 0)
        return module if fromlist else sys.modules[f"{self._package}.{top}"]

    def _holds(self, top: str, importer: object) -> bool:
        """Whether a name is that of a module of the folder, and not of an installed one.

        Args:
            importer: the file that imports.

        Raises:
            PrerequisiteError: it is that of both; only a file called so itself can mean the installed one alone.
        """
        if top not in self._known:
            if importer == str(self._folder / f"{top}.py") and _is_installed(top):
                return False
            self._known[top] = self._find(top)
        return self._known[top]

    def _find(self, top: str) -> bool:
        package = self._folder / top / "__init__.py"
        file = package if package.is_file() else self._folder / f"{top}.py"
        if not file.is_file():
            return False
        origin = _origin(top)
        if origin is not None and Path(origin).resolve() == file.resolve():
            return False
        if _is_installed(top):
            raise PrerequisiteError(
                f"{file} is called like the installed module '{top}', so 'import {top}' beside it has two meanings.",
                "Rename the file.",
            )
        return True


def _is_installed(top: str) -> bool:
    """Whether a name is that of a module of Python, of an installed package or of this one."""
    if top == __name__.partition(".")[0] or top in sys.stdlib_module_names:
        return True
    return bool({"site-packages", "dist-packages"} & set(Path(_origin(top) or "").parts))


def _origin(top: str) -> str | None:
    """The file of a module that can be imported everywhere; None where there is none."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    return None if spec is None else spec.origin


def _reason(error: BaseException, path: Path) -> str:
    """Kind, message and the last line of the file itself that was running."""
    line = None if not isinstance(error, SyntaxError) else error.lineno
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == str(path.resolve()):
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    where = f" (line {line})" if line is not None else ""
    text = " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split()).rstrip(".")
    return f"{type(error).__name__}: {PACKAGE_OF_A_FILE.sub('', text)}{where}"
