"""The notebook of examples/: it is committed without outputs, and its cells run from top to bottom."""

import json

import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest

from tests.documents import ROOT

NOTEBOOK = ROOT / "examples" / "forget_a_class.ipynb"


def code_cells() -> list[dict]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_the_notebook_is_committed_without_outputs():
    assert [cell["outputs"] for cell in code_cells()] == [[]] * len(code_cells())
    assert {cell["execution_count"] for cell in code_cells()} == {None}


@pytest.mark.slow  # `make docs` executes it on every change
def test_the_cells_forget_the_3_and_write_a_report_and_the_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("Agg")
    found: dict = {}
    for cell in code_cells():
        exec("".join(cell["source"]), found)
    before, after = found["before"], found["after"]
    assert before.min() > 0.9
    assert after[3] == 0
    assert np.delete(after - before, 3).mean() > -0.02
    assert len(plt.get_fignums()) == 3
    plt.close("all")
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "unlearned.msgpack"}
    jax.tree.map(np.testing.assert_array_equal, found["loaded"], found["result"].model.variables)
