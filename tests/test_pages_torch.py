"""The Python lines of docs/tutorials/pytorch.md, run as those of the README."""

import sys

import pytest

from tests.brought_folder import MEAN, NAMES, STD, coloured_images, write_network
from tests.test_pages import run_lines

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")


def test_the_lines_for_a_pytorch_network_end_in_a_file_and_a_report(tmp_path, monkeypatch):
    write_network(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    images, labels = coloured_images(40, seed=0)
    test_images, test_labels = coloured_images(20, seed=1)
    given = {"images": images, "labels": labels, "test_images": test_images, "test_labels": test_labels}
    monkeypatch.delitem(sys.modules, "my_network", raising=False)
    found = run_lines("tutorials/pytorch.md", given | {"mean": MEAN, "std": STD, "names": NAMES})
    monkeypatch.delitem(sys.modules, "my_network")
    before, after = (torch.load(name, weights_only=True) for name in ("model.pt", "unlearned.pt"))
    assert list(after) == list(before)
    assert found["result"].model.forgotten == (NAMES.index("cat"),)
    assert found["audit"].report["unlearned"]["test_forget_accuracy"] == 0
    assert "cat" in (tmp_path / "report.html").read_text(encoding="utf-8")
