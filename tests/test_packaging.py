"""The contents of an installation."""

import contextlib
import importlib
import re
import runpy
import subprocess
import sys
from unittest import mock

import pytest

from tests.documents import ROOT


@pytest.fixture(scope="module")
def distribution():
    """What setup.py tells setuptools, which is not called: it would change the environment of this process."""
    with contextlib.chdir(ROOT), mock.patch("setuptools.setup") as called:
        runpy.run_path("setup.py")
    return called.call_args.kwargs


@pytest.mark.parametrize("folder", ["osp_jax", "experiments", "configs"])
def test_an_installation_has_every_file_of_a_package(distribution, folder):
    packages = {name.replace(".", "/") for name in distribution["packages"]}
    files = {path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file()}
    files = {path for path in files if "__pycache__" not in path.parts}
    assert {str(path.parent) for path in files if path.suffix == ".py"} <= packages
    data = {
        path.relative_to(ROOT)
        for package, patterns in distribution["package_data"].items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    assert {path for path in files if path.suffix != ".py"} == {path for path in data if path.parts[0] == folder}


def test_the_console_script_is_a_function(distribution):
    (script,) = distribution["entry_points"]["console_scripts"]
    name, module, function = script.replace(":", " = ").split(" = ")
    assert name == "osp-jax"
    assert callable(getattr(importlib.import_module(module), function))


def test_the_public_names_are_imported_without_a_warning():
    program = "import osp_jax; [getattr(osp_jax, name) for name in osp_jax.__all__]"
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_extra_is_documented(distribution):
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", text.partition("## Extras")[2], flags=re.MULTILINE)
    assert sorted(rows) == sorted(distribution["extras_require"])
