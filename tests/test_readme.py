"""The README's code blocks without PyTorch, and those of docs/python.md, read from there and run."""

import re
from pathlib import Path

import numpy as np

import osp_jax
from tests.digits import DigitsNet, trained_digits
from tests.documents import ROOT, blocks, python_block
from tests.experiments.conftest import trained  # noqa: F401

README, PYTHON = ROOT / "README.md", ROOT / "docs" / "python.md"
NAMES = ("zero", "one", "two", "cat", "four", "five", "six", "seven", "eight", "nine")


def variables_of_a_reader() -> dict:
    """What the Python lines name and a reader has: a trained Linen network and its images."""
    digits = trained_digits()
    given = {"module": DigitsNet(), "variables": digits.model.variables, "names": NAMES}
    images = {"images": digits.dataset.train.images, "labels": digits.dataset.train.labels}
    tests = {"test_images": digits.dataset.test.images, "test_labels": digits.dataset.test.labels}
    return given | images | tests | {"mean": digits.preparation.mean, "std": digits.preparation.std}


def accuracies(model: osp_jax.Model, images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """On the images of the cat, class 3, and on those of the other classes."""
    mean, std = np.asarray(model.mean, np.float32), np.asarray(model.std, np.float32)
    right = np.argmax(model.apply(model.variables, (images / np.float32(255) - mean) / std), axis=1) == labels
    return right[labels == 3].mean(), right[labels != 3].mean()


def test_make_has_the_targets_that_the_readme_names_and_every_change_runs_the_demo():
    targets = re.findall(r"^(\S+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = [line.split() for block in blocks(README) if block.language == "sh" for line in block.text.splitlines()]
    named = [line[1] for line in lines if line[0] == "make"]
    assert named == ["demo", "test"]
    assert set(named) <= set(targets)
    assert "make demo" in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_a_stranger_needs_at_most_three_commands_or_fifteen_lines():
    (commands,) = [block for block in blocks(README) if "import-model" in block.text]
    assert len(commands.text.splitlines()) <= 3
    for block in blocks(README):
        if block.language == "python":
            assert len([line for line in block.text.splitlines() if line.strip()]) <= 15


def test_every_block_of_the_readme_is_shell_or_python():
    assert {block.language for block in blocks(README)} == {"sh", "python"}


def test_the_lines_for_a_linen_network_forget_the_class():
    variables = variables_of_a_reader()
    exec("import osp_jax\n" + python_block(README, "from_linen"), variables)
    tests = variables["test_images"], variables["test_labels"]
    before, after = accuracies(variables["model"], *tests), accuracies(variables["result"].model, *tests)
    assert before[0] > 0.9
    assert after[0] < 0.05
    assert after[1] > before[1] - 0.02
    assert variables["new_variables"] is variables["result"].model.variables


def test_the_lines_of_the_python_page_write_a_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(python_block(PYTHON, "from_linen"), variables_of_a_reader())
    assert "cat" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_lines_of_the_python_page_for_a_workdir_run(trained: Path, tmp_path, monkeypatch):  # noqa: F811
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "model").symlink_to(trained)
    monkeypatch.chdir(tmp_path)
    variables: dict = {}
    exec(python_block(PYTHON, "load_workdir"), variables)
    assert variables["forgotten"].forgotten == (3,)
