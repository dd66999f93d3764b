"""Processes on this machine: which are started with what, and that all end, whatever happens.

Flower's programs are scripts of this test; `tests/experiments/test_flower_command.py` runs the real ones.
"""

import subprocess
import sys
import sysconfig
import time
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("flwr")

import psutil

from osp_jax.federated.flower.loopback import run_app, runs, stop
from osp_jax.runtime.errors import InputError
from tests.federated.processes import of_folder

pytestmark = pytest.mark.flower

PARENT = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(100)"])
time.sleep(100)
"""
LISTEN = """
import os, socket, sys, time
port = next(int(word.partition("=")[2]) for word in sys.argv if word.startswith("--port="))
server = socket.create_server(("127.0.0.1", port))
print(sys.argv[1:], os.environ["FLWR_TELEMETRY_ENABLED"], os.environ["RAY_USAGE_STATS_ENABLED"], flush=True)
time.sleep(100)
"""
RUN = "import sys, time; time.sleep({seconds}); print(sys.argv[1:]); sys.exit({code})"
RUN_WITH_NODES = """
import os, pathlib, time
logs = [pathlib.Path(os.environ["FLWR_HOME"]).parent / f"node{number}.log" for number in range(3)]
while not all(log.exists() and log.stat().st_size for log in logs):
    time.sleep(0.05)
"""


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """`write(name, text)` puts a Python script in the place of one of Flower's programs."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def write(name: str, text: str) -> None:
        (folder / name).write_text(f"#!{sys.executable}\n{text}", encoding="utf-8")
        (folder / name).chmod(0o755)

    for name in ("flower-superlink", "flower-supernode"):
        write(name, LISTEN)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(folder))
    return write


def test_each_client_gets_a_node_of_its_own_and_nothing_is_left(tmp_path, programs):
    programs("flwr", RUN_WITH_NODES)
    folder: Path = tmp_path / "run"
    run_app("my_app", {"cell": 'a "quoted" path'}, 3, folder, seconds=60)
    project = tomllib.loads((folder / "app" / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["flwr"]["app"]
    assert project["components"] == {"serverapp": "my_app:server", "clientapp": "my_app:client"}
    assert project["config"] == {"cell": 'a "quoted" path'}
    link = tomllib.loads((folder / "home" / "config.toml").read_text(encoding="utf-8"))["superlink"]["loopback"]
    for number in range(3):
        log = (folder / f"node{number}.log").read_text(encoding="utf-8")
        assert f"--node-config=partition-id={number}" in log
        assert f"--superlink={link['address']}" in log
        assert log.endswith("0 0\n")
    assert not of_folder(tmp_path)


def test_a_run_that_fails_shows_the_end_of_its_log(tmp_path, programs):
    programs("flwr", RUN.format(seconds=0, code=7))
    with pytest.raises(RuntimeError, match=r"ended with 7:\n\['run', .*'loopback', '--stream'\]"):
        run_app("my_app", {}, 2, tmp_path / "run", seconds=60)
    assert not of_folder(tmp_path)


def test_a_superlink_that_does_not_start_shows_its_log(tmp_path, programs):
    programs("flower-superlink", "raise SystemExit('no port')")
    with pytest.raises(RuntimeError, match="flower-superlink ended with 1:\nno port"):
        run_app("my_app", {}, 2, tmp_path / "run", seconds=60)


@pytest.mark.parametrize("missing", ["flwr", "flower-superlink"])
def test_a_run_that_takes_too_long_gets_a_line_and_leaves_no_process(tmp_path, programs, missing):
    programs("flwr", RUN.format(seconds=0, code=0))
    programs(missing, RUN.format(seconds=100, code=0))
    with pytest.raises(InputError, match="give it more minutes"):
        run_app("my_app", {}, 2, tmp_path / "run", seconds=3)
    assert not of_folder(tmp_path)


def test_stopping_a_process_ends_those_it_started():
    process = subprocess.Popen([sys.executable, "-c", PARENT])
    while not (children := psutil.Process(process.pid).children()):
        time.sleep(0.05)
    stop([process], grace=0.5)
    assert process.poll() is not None
    assert not any(map(runs, children))
