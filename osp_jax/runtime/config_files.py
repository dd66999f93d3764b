"""Config files: Python files with a function `get_config()`, which are executed."""

import importlib.util
import os
from importlib.machinery import SourceFileLoader
from typing import Any

from osp_jax.runtime.errors import InputError
from osp_jax.runtime.paths import check_path


def load_config(path: str, flag: str = "--config") -> Any:
    """The `ConfigDict` that `get_config()` of a Python file returns; `FILE:TEXT` calls `get_config(TEXT)`.

    A path such as configs/digits.py that does not exist here is looked up among the configs that are installed.

    Raises:
      InputError: there is no such file, it raises an exception, or it returns anything else.
    """
    from ml_collections import ConfigDict

    file, colon, argument = path.partition(":")
    remedy = "give a Python file such as configs/digits.py"
    check_path(file, flag, "file")
    file = _installed(file)
    if not os.path.exists(file):
        raise InputError(f"the config file cannot be loaded: {file} does not exist; {remedy}")
    loader = SourceFileLoader("given_config", os.path.abspath(file))
    try:
        module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
        loader.exec_module(module)
        get_config = getattr(module, "get_config", None)
        config = get_config(*([argument] if colon else [])) if callable(get_config) else None
    except (Exception, SystemExit) as error:  # user code may raise anything
        raise InputError(
            f"the config file cannot be loaded: {file}: {type(error).__name__}: {error}; correct it, or {remedy}"
        ) from error
    if get_config is None:
        raise InputError(f"{file} has no function get_config; {remedy}")
    if not isinstance(config, ConfigDict):
        raise InputError(f"get_config of {file} returns {type(config).__name__}, not a ConfigDict; {remedy}")
    return config


def _installed(file: str) -> str:
    """`file`, or the installed config of that name where there is no such file."""
    spec = None if os.path.exists(file) or not file.startswith("configs/") else importlib.util.find_spec("configs")
    return os.path.join(os.path.dirname(spec.origin), file.removeprefix("configs/")) if spec and spec.origin else file
