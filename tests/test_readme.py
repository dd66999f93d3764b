"""The README's code blocks without PyTorch, and those of docs/python.md, read from there and run."""

import re
from pathlib import Path

from tests.documents import ROOT, blocks, python_block
from tests.experiments.conftest import trained  # noqa: F401
from tests.reader import assert_the_lines_forget, variables_of_a_reader

README, PYTHON = ROOT / "README.md", ROOT / "docs" / "python.md"


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
    variables = assert_the_lines_forget(python_block(README, "from_linen"))
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
