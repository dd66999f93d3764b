"""The Python lines of the pages in docs/, run in order, each page with what its reader has."""

import jax
import pytest

from osp_jax.data.augment import normalise
from tests.digits import trained_digits
from tests.documents import ROOT, blocks
from tests.test_readme import variables_of_a_reader


def run_lines(page: str, variables: dict) -> dict:
    """The variables after the Python blocks of `docs/page`."""
    lines = [block.text for block in blocks(ROOT / "docs" / page) if block.language == "python"]
    assert lines
    exec("\n".join(lines), variables)
    return variables


@pytest.fixture(scope="module")
def reader() -> dict:
    """A model of the digits, its images, and its statistics."""
    import osp_jax

    given = variables_of_a_reader() | {"model": trained_digits().model, "osp_jax": osp_jax, "jax": jax}
    given["normalised_images"] = normalise(given["images"][:8], given["mean"], given["std"])
    return given | {"statistics": osp_jax.collect_statistics(given["model"], given["images"], given["labels"])}


def test_the_lines_about_gates_list_the_channels(reader, capsys):
    run_lines("concepts/gates.md", dict(reader))
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in printed] == ["8", "16", "32"]


def test_the_lines_about_statistics_collect_all_classes(reader):
    statistics = run_lines("concepts/statistics.md", dict(reader))["statistics"]
    assert list(statistics.classes_seen()) == list(range(10))


def test_the_lines_about_masks_change_one_class_most(reader):
    found = run_lines("concepts/masks.md", dict(reader))
    assert sorted(found["mask"]) == ["params/bn3/bias", "params/bn3/scale"]
    assert (found["gains"] < 1).sum() == 8
