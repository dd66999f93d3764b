"""The README's code for a PyTorch network: three commands from a file and a folder, fifteen lines of Python."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.brought_folder import MEAN, NAMES, STD, coloured_images, write_images, write_network
from tests.documents import ROOT, blocks, python_block
from tests.experiments.conftest import environment

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
README = ROOT / "README.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`images/`, `my_network.py` and `model.pt`."""
    folder = tmp_path_factory.mktemp("reader")
    write_images(folder / "images")
    write_network(folder)
    return folder


def run_line(line: str, folder: Path) -> subprocess.CompletedProcess:
    """One line of the shell in `folder`, where the README's reader has a clone of the repository."""
    program, *arguments = shlex.split(line)
    assert program == "osp-jax"
    given = environment() | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "experiments", *arguments],
        cwd=folder,
        env=given,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def answers(state: dict, folder: Path) -> np.ndarray:
    """The classes that the reader's own module gives to unseen images with the weights `state`."""
    found: dict = {}
    exec((folder / "my_network.py").read_text(encoding="utf-8"), found)
    network = found["build"]().eval()
    network.load_state_dict(state)
    images, _ = coloured_images(20, seed=7)
    pixels = (images / np.float32(255) - np.float32(MEAN)) / np.float32(STD)
    return network(torch.tensor(pixels).permute(0, 3, 1, 2)).argmax(1).numpy()


def assert_the_cat_is_forgotten(folder: Path) -> None:
    before, after = (torch.load(folder / name, weights_only=True) for name in ("model.pt", "unlearned.pt"))
    assert list(after) == list(before)
    labels = coloured_images(20, seed=7)[1]
    cat = NAMES.index("cat")
    assert (answers(before, folder) == labels).mean() > 0.95
    assert (answers(after, folder)[labels == cat] == cat).mean() == 0
    assert (answers(after, folder) == labels)[labels != cat].mean() > 0.95
    assert any(torch.equal(before[key], after[key]) for key in before)
    assert any(not torch.equal(before[key], after[key]) for key in before)


def test_the_commands_end_in_an_exported_file_and_a_report(folder):
    (block,) = [block.text for block in blocks(README) if "import-model" in block.text]
    (report,) = re.findall(r"`(osp-jax eval [^`]*)`", README.read_text(encoding="utf-8"))
    for line in [*block.splitlines(), report]:
        done = run_line(line, folder)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert "cat" in (folder / "runs" / "unlearned" / "report.html").read_text(encoding="utf-8")
    assert_the_cat_is_forgotten(folder)


def test_the_python_lines_end_in_a_file_and_a_report(folder, monkeypatch):
    for name in ("unlearned.pt", "report.html"):
        (folder / name).unlink(missing_ok=True)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    images, labels = coloured_images(40, seed=0)
    test_images, test_labels = coloured_images(20, seed=1)
    given = {"images": images, "labels": labels, "test_images": test_images, "test_labels": test_labels}
    exec(python_block(README, "from_torch"), given | {"mean": MEAN, "std": STD, "names": NAMES})
    sys.modules.pop("my_network")
    assert "cat" in (folder / "report.html").read_text(encoding="utf-8")
    assert_the_cat_is_forgotten(folder)
