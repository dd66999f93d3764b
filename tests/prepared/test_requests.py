"""Prepared requests equal the same requests without preparation, and are refused for another model."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import osp_jax
from osp_jax.methods import ConceptErasure, LogitMask, OspFit
from osp_jax.prepared.sets import composed
from osp_jax.trees import differing_paths, edited, leaves_by_path
from tests.digits import trained_digits

FAST = ConceptErasure(images=200, forget_images=40, directions=32, batch_size=100)


@pytest.fixture(scope="module")
def digits():
    return trained_digits()


@pytest.fixture(scope="module")
def model(digits):
    return digits.model


@pytest.fixture(scope="module")
def statistics(digits):
    train = digits.dataset.train
    return osp_jax.collect_statistics(digits.model, train.images, train.labels, features=1000, cached_inputs=400)


@pytest.fixture(scope="module")
def prepared(model, statistics):
    return osp_jax.prepare(model, [3, 5, 7], statistics=statistics)


METHODS = [OspFit(), LogitMask(), pytest.param(FAST, marks=pytest.mark.slow)]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_a_prepared_request_gives_the_same_model(method, model, statistics):
    prepared = osp_jax.prepare(model, [3], method, statistics=statistics)
    found = osp_jax.unlearn(model, [3], prepared=prepared)
    direct = osp_jax.unlearn(model, [3], method, statistics=statistics)

    assert found.model.forgotten == (3,)
    assert prepared.classes[3].is_exact
    assert not differing_paths(direct.model.variables, [found.model.variables])
    same = ("method", "options", "forget", "harm", "masked_channels", "parameters_changed", "channels", "budget")
    assert {key: found.report[key] for key in same} == {key: direct.report[key] for key in same}
    assert found.report["prepared"]["way"] == "alone"
    assert found.report["data_seen"]["request"]["train"] == {}
    json.dumps(found.report, allow_nan=False)


def test_what_was_prepared_may_change_no_more_than_a_few_numbers(model, statistics):
    prepared = osp_jax.prepare(model, [3], "logit-mask", statistics=statistics)
    size = sum(leaf.nbytes for leaf in leaves_by_path(model.variables).values())

    assert prepared.classes[3].nbytes < size / 1000


def test_logit_masks_of_a_set_are_composed_without_a_difference(model, statistics):
    prepared = osp_jax.prepare(model, [3, 5], "logit-mask", statistics=statistics)
    found = osp_jax.unlearn(model, [3, 5], prepared=prepared)
    direct = osp_jax.unlearn(model, [3, 5], "logit-mask", statistics=statistics)

    assert found.report["prepared"]["way"] == "composed"
    assert not differing_paths(direct.model.variables, [found.model.variables])


def test_a_set_is_repaired_as_well_as_the_joint_request(digits, model, statistics, prepared):
    found = osp_jax.unlearn(model, [3, 5, 7], prepared=prepared)
    direct = osp_jax.unlearn(model, [3, 5, 7], statistics=statistics)

    assert found.report["prepared"]["way"] == "composed"
    assert found.model.forgotten == (3, 5, 7)
    drops = [result.report["harm"]["retained_after"] for result in (found, direct)]
    assert drops[0] > drops[1] - 0.01
    test = digits.dataset.test
    inputs = (test.images.astype(np.float32) / 255 - np.float32(model.mean)) / np.float32(model.std)
    answers = np.asarray(found.model.apply(found.model.variables, inputs)).argmax(-1)
    gone = np.isin(test.labels, (3, 5, 7))
    assert np.isin(answers, (3, 5, 7)).mean() < 0.01
    assert (answers == test.labels)[~gone].mean() > 0.9


def test_changes_of_several_classes_multiply_where_they_are_factors(model, prepared):
    changed = composed(prepared, model, (3, 5)).variables
    alone = [osp_jax.unlearn(model, [number], prepared=prepared).model.variables for number in (3, 5)]
    old, new = leaves_by_path(model.variables), leaves_by_path(changed)
    first, second = map(leaves_by_path, alone)
    for path in differing_paths(model.variables, alone):
        if path.endswith("scale"):
            wanted = np.asarray(first[path], float) * second[path] / old[path]
            np.testing.assert_allclose(new[path], wanted, rtol=1e-5, atol=1e-7)


def test_a_set_is_computed_where_what_is_stored_does_not_show_its_cost(digits, model, statistics):
    bare = statistics.replace(features=jnp.zeros((0, 32)), labels=jnp.zeros(0, jnp.int32), cached_inputs=())
    data = digits.dataset.train.images[:300], digits.dataset.train.labels[:300]
    prepared = osp_jax.prepare(model, [3, 5], "logit-mask", statistics=bare, data=data)
    report = osp_jax.unlearn(model, [3, 5], prepared=prepared, data=data).report

    assert report["prepared"] is None
    assert report["forgotten"] == [3, 5]


def test_another_model_is_refused(model, prepared):
    bias = "params/head/bias"
    other = model.replace(variables=edited(model.variables, {bias: leaves_by_path(model.variables)[bias] + 1}))
    with pytest.raises(osp_jax.InputError, match="prepare them again"):
        osp_jax.unlearn(other, [3], prepared=prepared)


def test_a_model_that_forgot_a_class_since_is_refused_and_can_be_prepared_anew(model, statistics, prepared):
    after = osp_jax.unlearn(model, [3], prepared=prepared).model
    with pytest.raises(osp_jax.InputError, match="prepare them again"):
        osp_jax.unlearn(after, [5], prepared=prepared)

    anew = osp_jax.prepare(after, [5], "logit-mask", statistics=statistics)
    assert osp_jax.unlearn(after, [5], prepared=anew, accept=True).model.forgotten == (3, 5)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"forget": [4]}, "was not prepared"),
        ({"forget": [3], "method": "logit-mask"}, "prepared with method"),
        ({"forget": [3], "method": OspFit(margin=2.0)}, "prepared with options"),
        ({"forget": [3], "seed": 1}, "prepared with seed"),
        ({"forget": [3], "prepared": "cat"}, "osp_jax.prepare returns"),
        ({"forget": []}, "no class"),
    ],
)
def test_a_request_that_does_not_fit_is_one_line(request_, words, model, prepared):
    with pytest.raises(osp_jax.InputError, match=words) as caught:
        osp_jax.unlearn(model, **{"prepared": prepared, **request_})
    assert "\n" not in str(caught.value)


def test_the_original_stays_as_it_is(model, prepared):
    before = {path: np.array(leaf) for path, leaf in leaves_by_path(model.variables).items()}
    osp_jax.unlearn(model, [3], prepared=prepared)
    for path, leaf in leaves_by_path(model.variables).items():
        np.testing.assert_array_equal(leaf, before[path])
    assert jnp.isfinite(leaf).all()
