"""What an installation contains."""

from setuptools import find_packages

from tests.experiments.conftest import ROOT


def test_an_installation_has_every_file_of_the_library():
    packages = {name.replace(".", "/") for name in find_packages(ROOT, include=["osp_jax", "osp_jax.*"])}
    folders = {str(file.parent.relative_to(ROOT)) for file in (ROOT / "osp_jax").rglob("*.py")}
    assert folders <= packages
