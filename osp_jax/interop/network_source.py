"""Finds, records and runs the user's function that creates a network, `MODULE:FUNCTION` or `path/to/file.py:FUNCTION`.

The function is executed: it is user code, and may raise anything.
"""

import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from osp_jax.runtime.errors import InputError, shown
from osp_jax.runtime.paths import check_path

REMEDY = "give MODULE:FUNCTION or path/to/file.py:FUNCTION, where FUNCTION() returns the network"


@dataclasses.dataclass(frozen=True)
class Source:
    """The source of a network.

    Attributes:
      function: 'net.py:resnet20', or 'package.nets:resnet20' if the file is imported as a module.
      file: the Python file, absolute.
      sha256: checksum of that file.
    """

    function: str
    file: Path
    sha256: str

    @property
    def name(self) -> str:
        """The name of the function alone."""
        return self.function.rpartition(":")[2]

    @property
    def place(self) -> str:
        """'net.py', or the name of a module."""
        return self.function.rpartition(":")[0]

    @property
    def root(self) -> Path:
        """The folder on `sys.path` for its imports: that of the file, or that of the outermost package."""
        if self.place.endswith(".py"):
            return self.file.parent
        return self.file.parents[self.place.count(".") + (self.file.name == "__init__.py")]


def build_network(reference: str) -> Any:
    """Calls the function without arguments, and returns its network.

    Args:
      reference: 'MODULE:FUNCTION', where the module is searched in the current folder and among installed packages, or
        'path/to/file.py:FUNCTION', whose folder is on `sys.path` while the file is imported.

    Raises:
      InputError: there is no such module, file or function, it needs arguments, or it raises an exception.
    """
    return network_of(find_source(reference))


def find_source(reference: str) -> Source:
    """The file and the function that a reference names. Raises `InputError` where there is none."""
    place, colon, function = reference.rpartition(":")
    if not colon or not place or not function:
        raise InputError(f"the network is {shown(reference)}; {REMEDY}")
    if not all(part.isidentifier() for part in function.split(".")):
        raise InputError(f"the network is {shown(reference)}, and {shown(function)} is no name of a function; {REMEDY}")
    if place.endswith(".py") or os.sep in place:
        check_path(place, "the network's file", "file")
        file = Path(os.path.abspath(os.path.expanduser(place)))
        if not file.is_file():
            raise InputError(f"the network's file {place} does not exist; {REMEDY}")
        return Source(f"{file.name}:{function}", file, _digest(file))
    file = _file_of_module(place)
    return Source(f"{place}:{function}", file, _digest(file))


def check_source(source: Source, remedy: str) -> None:
    """Raises `InputError` if the file is missing, or differs from that of `source`."""
    if not source.file.is_file():
        raise InputError(f"the network's file {source.file} does not exist any more; restore it, or {remedy}")
    if _digest(source.file) != source.sha256:
        raise InputError(f"the network's file {source.file} was changed since the import; restore it, or {remedy}")


def network_of(source: Source) -> Any:
    """Calls the function of `source` and returns its network. Raises `InputError` as `build_network`."""
    with _users_program(source):
        module = _loaded(source)
        found: Any = module
        for part in source.name.split("."):
            found = getattr(found, part, None)
    if found is None:
        raise InputError(f"{source.file} has no function {source.name}{_functions(module)}; {REMEDY}")
    if not isinstance(found, type) and _is_network(found):
        return found  # the network itself
    if not callable(found):
        raise InputError(f"{source.name} in {source.file} is {shown(found)}, not a function; {REMEDY}")
    _check_arguments(found, source)
    with _users_program(source), _first_on_path(source.root):
        return found()


def _is_network(found: Any) -> bool:
    """Whether an object is a module of a framework, judged by its class and base classes."""
    names = {f"{kind.__module__}.{kind.__name__}" for kind in type(found).__mro__}
    return bool(names & {"torch.nn.modules.module.Module", "flax.linen.module.Module", "flax.nnx.module.Module"})


def _check_arguments(function: Callable[..., Any], source: Source) -> None:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # built in
        return
    optional = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    needed = [p.name for p in parameters if p.default is inspect.Parameter.empty and p.kind not in optional]
    if needed:
        raise InputError(
            f"{source.name} in {source.file} needs arguments ({', '.join(needed)}), and is called without; write a "
            f"function that gives them, `def network(): return {source.name}(...)`, and name that"
        )


@contextmanager
def _users_program(source: Source) -> Iterator[None]:
    """Raises errors of user code in the block as an `InputError`."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # user code may raise anything
        reason = " ".join(str(error).split())[:300]
        words = f"{type(error).__name__}{f': {reason}' if reason else ''}"
        remedy = "correct it"
        if isinstance(error, ModuleNotFoundError) and error.name:
            known = 'run: pip install "osp_jax[torch]"' if error.name == "torch" else f"install {error.name}"
            remedy = f"{known}, or correct the import"
        raise InputError(
            f"the network {source.function} cannot be made: {_line(error, source)}: {words}; {remedy}"
        ) from error


def _line(error: BaseException, source: Source) -> str:
    """The last line of the user's own files in the traceback of an error, such as 'file.py, line 3'."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if Path(f.filename).parent == source.file.parent and Path(f.filename).is_file()]
    return f"{own[-1].filename}, line {own[-1].lineno}" if own else str(source.file)


# Modules


def _file_of_module(name: str) -> Path:
    with _first_on_path(Path.cwd()):
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError, AttributeError) as error:  # raised by a parent package
            if isinstance(error, ModuleNotFoundError) and error.name and name.startswith(error.name):
                spec = None
            else:
                raise InputError(f"the module {name} cannot be imported ({error}); correct it, or {REMEDY}") from error
        except (Exception, SystemExit) as error:  # user code, which runs when its package is searched
            reason = f"{type(error).__name__}: {error}"
            raise InputError(f"the module {name} cannot be imported ({reason}); correct it, or {REMEDY}") from error
    if spec is None:
        raise InputError(f"there is no module {name} in the current folder or among the installed packages; {REMEDY}")
    if not spec.origin or not spec.origin.endswith(".py"):
        raise InputError(f"the module {name} is no Python file ({spec.origin or 'a folder'}); {REMEDY}")
    return Path(os.path.abspath(spec.origin))


def _loaded(source: Source) -> ModuleType:
    if source.place.endswith(".py"):
        return _loaded_file(source)
    with _first_on_path(source.root):
        module = importlib.import_module(source.place)
    if Path(os.path.abspath(module.__file__ or "")) != source.file:
        raise InputError(
            f"the module {source.place} is imported from {module.__file__} here and not from {source.file}; run this "
            "where the network was imported, or name it by its file"
        )
    return module


_FILES: dict[Path, tuple[str, ModuleType]] = {}
_NEIGHBOURS: dict[Path, dict[str, ModuleType]] = {}


def _loaded_file(source: Source) -> ModuleType:
    """The module of a file, executed once per content, so that networks of two workdirs share their classes."""
    known = _FILES.get(source.file)
    if known and known[0] == source.sha256:
        return known[1]
    folder, stem = source.file.parent, source.file.stem
    free = stem.isidentifier() and stem not in sys.modules
    name = stem if free else f"{re.sub(r'[^0-9A-Za-z_]', '_', stem)}_{source.sha256[:8]}"
    loader = SourceFileLoader(name, str(source.file))
    with _first_on_path(folder), _own_neighbours(folder):
        module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
        sys.modules[name] = module  # dataclasses look up their module
        try:
            loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    _FILES[source.file] = source.sha256, module
    return module


@contextmanager
def _own_neighbours(folder: Path) -> Iterator[None]:
    """Makes each file import modules of its own folder, since other folders may have modules of the same name."""
    for other, modules in _NEIGHBOURS.items():
        for name, module in modules.items():
            if other != folder and sys.modules.get(name) is module:
                del sys.modules[name]
    sys.modules.update(_NEIGHBOURS.get(folder, {}))
    before = set(sys.modules)
    try:
        yield
    finally:
        mine = _NEIGHBOURS.setdefault(folder, {})
        for name in set(sys.modules) - before:
            module = sys.modules[name]
            file = getattr(module, "__file__", None)
            if file and Path(os.path.abspath(file)).is_relative_to(folder) and "site-packages" not in file:
                mine[name] = module


@contextmanager
def _first_on_path(folder: Path) -> Iterator[None]:
    importlib.invalidate_caches()
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


def _functions(module: ModuleType) -> str:
    """The functions and classes that a module defines, as a hint for errors."""
    names = [
        name
        for name, value in vars(module).items()
        if callable(value) and not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    return f" (it has {', '.join(names[:12])}{', ...' if len(names) > 12 else ''})" if names else ""


def _digest(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"the network's file {file} cannot be read ({error.strerror}); give another") from error
