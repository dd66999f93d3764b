"""`experiments.flower`: Flower's processes compared with the simulator, and refusals."""

import os
import subprocess
import sys

import pytest

from osp_jax.runtime.workdir import read_json
from tests.experiments.conftest import ROOT, environment, run_command

SMALL = ["--config=configs/federated/flower.py"]


@pytest.mark.flower
@pytest.mark.slow
def test_two_clients_over_loopback_give_the_arrays_of_the_simulator(tmp_path):
    pytest.importorskip("flwr")
    from tests.federated.processes import of_folder

    arguments = [*SMALL, "--scenario=class", "--method=fu-cdp", f"--workdir={tmp_path / 'out'}"]
    given = environment() | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "experiments.flower", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr
    found = read_json(tmp_path / "out" / "flower.json")
    assert set(found["differences"]) == {"trained", "edited", "recovered"}
    assert all(difference <= 1e-6 for difference in found["differences"].values())
    assert found["traffic"]["trained"] == found["simulated"]["traffic"]["trained"]
    assert not of_folder(tmp_path)


@pytest.mark.flower
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method=fedunlearn"], "choose one of"),
        (["--split=even"], "choose one of"),
        (["--scenario=label-flip", "--method=fedup"], "name the classes of label-flip"),
        (["--scenario=client", "--method=fu-cdp"], "fu-cdp answers no request at client level"),
        (["--config.division.clients=2000"], "name fewer clients"),
    ],
)
def test_what_cannot_be_run_gets_one_line_before_any_process_starts(tmp_path, arguments, words):
    pytest.importorskip("flwr")
    done = run_command("experiments.flower", *SMALL, f"--workdir={tmp_path / 'out'}", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_flower_the_line_names_the_extra(tmp_path):
    (tmp_path / "flwr.py").write_text("raise ImportError", encoding="utf-8")
    given = environment() | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "experiments.flower", *SMALL, f"--workdir={tmp_path / 'out'}"]
    done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert 'pip install "osp_jax[flower]"' in done.stderr
    assert len(done.stderr.splitlines()) == 1
