"""Importing the Flower package, with and without Flower."""

import os
import subprocess
import sys

import pytest

from osp_jax.runtime.errors import InputError


def test_without_flower_the_line_names_the_extra(monkeypatch):
    for name in ("FLWR_TELEMETRY_ENABLED", "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.setenv(name, "0")  # as the import does, which would stay set for the tests that follow
    for name in [name for name in sys.modules if name.startswith("osp_jax.federated.flower")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "flwr", None)
    with pytest.raises(InputError, match=r'pip install "osp_jax\[flower\]"'):
        import osp_jax.federated.flower  # noqa: F401


@pytest.mark.parametrize(("given", "expected"), [(None, "0 0"), ("1", "1 0")])
def test_telemetry_is_off_unless_it_is_asked_for(given, expected):
    pytest.importorskip("flwr")
    environment = {name: value for name, value in os.environ.items() if name != "FLWR_TELEMETRY_ENABLED"}
    if given is not None:
        environment["FLWR_TELEMETRY_ENABLED"] = given
    lines = (
        "import os, osp_jax.federated.flower",
        "from flwr.supercore.telemetry import FLWR_TELEMETRY_ENABLED",
        "print(FLWR_TELEMETRY_ENABLED, os.environ['RAY_USAGE_STATS_ENABLED'])",
    )
    found = subprocess.run([sys.executable, "-c", "; ".join(lines)], env=environment, capture_output=True, text=True)
    assert found.stdout.split("\n")[0] == expected, found.stderr
