"""The contents of an installation."""

import importlib
import os
from distutils.core import run_setup
from pathlib import Path

import pytest

from tests.experiments.conftest import ROOT


@pytest.fixture(scope="module")
def distribution():
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        return run_setup("setup.py", stop_after="init")
    finally:
        os.chdir(before)


@pytest.mark.parametrize("folder", ["osp_jax", "experiments", "configs"])
def test_an_installation_has_every_file_of_a_package(distribution, folder):
    packages = {name.replace(".", "/") for name in distribution.packages}
    files = {path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file()}
    files = {path for path in files if "__pycache__" not in path.parts}
    assert {str(path.parent) for path in files if path.suffix == ".py"} <= packages
    data = {
        path.relative_to(ROOT)
        for package, patterns in distribution.package_data.items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    assert {path for path in files if path.suffix != ".py"} == {path for path in data if path.parts[0] == folder}


def test_the_console_script_is_a_function(distribution):
    (script,) = distribution.entry_points["console_scripts"]
    name, module, function = script.replace(":", " = ").split(" = ")
    assert name == "osp-jax"
    assert callable(getattr(importlib.import_module(module), function))
