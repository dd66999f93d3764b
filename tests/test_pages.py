"""The Python lines of the pages in docs/, run in order, each page with what its reader has."""

import jax
import numpy as np
import pytest

import osp_jax
from osp_jax.data.augment import normalise
from osp_jax.federated import client_of
from tests.digits import trained_digits
from tests.documents import ROOT, blocks, python_block
from tests.federated.small import small_federation
from tests.reader import accuracies, variables_of_a_reader
from tests.test_api import HARMFUL, from_nnx


def run_lines(page: str, variables: dict) -> dict:
    """The variables after the Python blocks of `docs/page`."""
    lines = [block.text for block in blocks(ROOT / "docs" / page) if block.language == "python"]
    assert lines
    exec("\n".join(lines), variables)
    return variables


def assert_forgotten(model: osp_jax.Model, reader: dict) -> None:
    """The cat, and no other class."""
    before, after = (
        accuracies(each, reader["test_images"], reader["test_labels"]) for each in (reader["model"], model)
    )
    assert model.forgotten == (3,)
    assert after[0] < 0.05
    assert after[1] > before[1] - 0.02


@pytest.fixture(scope="module")
def reader() -> dict:
    """A model of the digits, its images, and its statistics."""
    given = variables_of_a_reader()
    names = {"class_names": given["names"]}
    given |= {"model": trained_digits().model.replace(**names), "osp_jax": osp_jax, "jax": jax}
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


@pytest.fixture
def nnx_module(reader):
    moments = {name: reader[name] for name in ("mean", "std")}
    return osp_jax.to_nnx(from_nnx(reader["variables"], moments | {"class_names": reader["names"]}))


def test_the_lines_for_a_flax_network_forget_the_class(reader, nnx_module):
    found = run_lines("tutorials/flax.md", {**reader, "apply": reader["model"].apply, "nnx_module": nnx_module})
    assert isinstance(found["new_module"], type(nnx_module))
    assert_forgotten(found["result"].model, reader)


def test_the_lines_of_the_python_page_for_an_nnx_module_forget_the_class(reader, nnx_module):
    images, before = reader["normalised_images"], nnx_module(reader["normalised_images"])
    found = {**reader, "nnx_module": nnx_module}
    exec(python_block(ROOT / "docs" / "python.md", "from_nnx"), found)
    model = found["result"].model
    assert isinstance(found["new_module"], type(nnx_module))
    np.testing.assert_allclose(found["new_module"](images), model.apply(model.variables, images), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(nnx_module(images), before)
    assert_forgotten(model, reader)


def test_the_lines_of_the_python_page_for_a_function_forget_the_class(reader):
    found = {**reader, "apply": reader["model"].apply}
    exec(python_block(ROOT / "docs" / "python.md", "from_function"), found)
    assert found["new_variables"] is found["result"].model.variables
    assert_forgotten(found["result"].model, reader)


def test_the_lines_of_a_service_answer_a_request_and_prepare_the_next(reader):
    found = run_lines("tutorials/service.md", dict(reader))
    assert_forgotten(found["model"], reader)
    assert found["predict"]._cache_size() == 1
    assert sorted(found["prepared"].classes) == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_a_service_keeps_its_model_where_a_request_does_harm(reader):
    found = run_lines("tutorials/service.md", dict(reader))
    found["prepared"] = osp_jax.prepare(reader["model"], [3], HARMFUL, statistics=reader["statistics"])
    model, record = found["answer"](reader["model"], "cat")
    assert model is reader["model"]
    assert "refused" in record


def test_the_lines_of_a_federated_request_remove_channels(reader):
    found = run_lines("tutorials/federated.md", dict(reader))
    assert sum(found["edit"].about["removed_channels"].values()) > 0
    assert found["left"].variables is found["after"].variables
    kept = accuracies(found["left"], reader["test_images"], reader["test_labels"])[1]
    assert kept > 0.8


def test_the_lines_of_the_guide_to_federations_train_and_sum():
    small = small_federation()
    clients = [client_of(small.clients, number) for number in range(3)]
    lines = python_block(ROOT / "docs" / "federated.md", "aggregate, client_key")
    found: dict = {"model": small.model, "clients": clients, "key": jax.random.key(0)}
    exec(lines, found)
    jax.tree.map(lambda new, old: None, found["variables"], small.model.variables)  # the same structure
    assert found["sums"].count.sum() == len(small.labels)


def test_the_lines_of_the_exact_case_forget_a_class_and_two_images(reader):
    found = dict(reader) | {"backbone": reader["model"]}
    exec(python_block(ROOT / "docs" / "exact.md", "fit_head"), found)
    assert found["result"].model.forgotten == (3,)
    assert found["left"].model.forgotten == ()


def test_the_lines_of_the_front_page_are_those_of_pages_that_run():
    run = [block.text for page in ("flax", "pytorch") for block in blocks(ROOT / "docs" / "tutorials" / f"{page}.md")]
    (lines,) = [block.text for block in blocks(ROOT / "docs" / "index.md") if block.language == "python"]
    assert set(lines.splitlines()) <= set("".join(run).splitlines())
