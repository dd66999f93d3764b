"""Evaluating all requests together equals evaluating each: logits, predictions, counts."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.evaluating import (
    accuracies,
    evaluate_all,
    map_requests,
    predict_all,
    stack_changed,
)
from osp_jax.audit.accuracy import accuracy, confusion_matrix
from osp_jax.data.sources import Split
from osp_jax.forward import predict_logits
from osp_jax.masks import apply_mask, build_mask
from osp_jax.model import Model
from osp_jax.program.gates import Gates
from osp_jax.trees import differing_paths, edited, leaves_by_path
from tests.small_networks import CLASSES, SHAPE, assert_close, case

RNG = np.random.default_rng(0)
SPLIT = Split(RNG.integers(0, 256, (30, *SHAPE), np.uint8), RNG.integers(0, CLASSES, 30).astype(np.int32))
INDICES = np.arange(30)[::-1][:27]  # a last batch of 3, where batches are of 8


def model_of(name: str) -> tuple[Model, Gates]:
    return case(name).model.replace(mean=(0.5, 0.4, 0.6), std=(0.2, 0.3, 0.25)), case(name).gates


def masked(model: Model, gates: Gates, layers: str, requests: int) -> list[Model]:
    """The model with random gains on the 'first', the 'last' or the last two groups of channels."""
    groups = {"first": gates.groups[:1], "last": (gates.last,), "two": gates.groups[-2:]}[layers]
    gains = [{group.name: jnp.asarray(RNG.uniform(0, 1, group.channels)) for group in groups} for _ in range(requests)]
    return [model.replace(variables=apply_mask(model.variables, build_mask(each, gates))) for each in gains]


def with_new(model: Model, path: str) -> Model:
    leaf = leaves_by_path(model.variables)[path]
    return model.replace(variables=edited(model.variables, {path: 0.5 * leaf[..., ::-1]}))


def in_turn(unlearned: list[Model]) -> np.ndarray:
    return np.stack([predict_logits(each, SPLIT, INDICES) for each in unlearned]).argmax(-1)


@pytest.mark.parametrize(("layers", "at_once"), [("last", 10), ("two", 2), ("first", 1)])  # 2 does not divide the 3
def test_predictions_are_those_of_each_request_by_itself(layers, at_once):
    model, gates = model_of("resnet8")
    unlearned = [*masked(model, gates, layers, 2), model]
    found = predict_all(model, unlearned, SPLIT, INDICES, batch_size=8, at_once=at_once)
    np.testing.assert_array_equal(found, in_turn(unlearned))
    assert found.dtype == np.int32


@pytest.mark.parametrize("name", ["resnet8", "cifarnet", "vgg11"])
def test_logits_are_those_of_each_request_by_itself(name):
    (model, gates), images = model_of(name), case(name).images
    unlearned = [each.variables for each in masked(model, gates, "two", 3)]
    given = model.variables, stack_changed(model.variables, unlearned), images
    function = partial(map_requests, model.apply, requests=3, at_once=2)
    whole = jax.jit(lambda each: model.apply(each, images))
    assert_close(jax.jit(function)(*given), jnp.stack([whole(each) for each in unlearned]), 1e-5)


def test_requests_that_change_a_kernel_or_a_head_stand_beside_masks_and_beside_none():
    model, gates = model_of("resnet8")
    kernel = with_new(model, "params/stage3_block1/conv2/kernel")
    unlearned = [kernel, with_new(model, "params/head/kernel"), *masked(model, gates, "last", 1), model]
    np.testing.assert_array_equal(predict_all(model, unlearned, SPLIT, INDICES), in_turn(unlearned))


def test_nothing_changed_is_the_original_as_often_as_it_is_asked_for():
    model, _ = model_of("resnet8")
    copied = model.replace(variables=jax.tree.map(jnp.copy, model.variables))
    assert not stack_changed(model.variables, [model.variables, copied.variables])
    np.testing.assert_array_equal(predict_all(model, [model, copied], SPLIT, INDICES), in_turn([model] * 2))


def test_each_image_is_counted_once_and_the_accuracies_follow_from_the_counts():
    model, gates = model_of("resnet8")
    unlearned, forgets = masked(model, gates, "last", 2), [(3,), (0, 2)]
    counts = evaluate_all(model, unlearned, SPLIT, INDICES, batch_size=8)
    labels, predictions = SPLIT.labels[INDICES], in_turn(unlearned)
    np.testing.assert_array_equal(counts, [confusion_matrix(each, labels, CLASSES) for each in predictions])
    assert counts.sum((1, 2)).tolist() == [27, 27]
    for found, each, forget in zip(accuracies(counts, forgets), predictions, forgets, strict=True):
        forgotten = np.isin(labels, forget)
        assert found["forget_accuracy"] == pytest.approx(accuracy(each, labels, forgotten))
        assert found["retain_accuracy"] == pytest.approx(accuracy(each, labels, ~forgotten))
    assert accuracies(np.diag([0, 4])[None], [(0,)]) == [{"forget_accuracy": None, "retain_accuracy": 1.0}]


def test_changed_leaves_are_those_whose_values_differ_in_any_request():
    before = {"params": {"a": np.zeros(2), "b": np.ones(2)}, "batch_stats": {"c": np.ones(1)}}
    equal = {"params": {"a": np.zeros(2), "b": np.ones(2)}, "batch_stats": {"c": np.ones(1)}}
    other = {"params": {"a": np.zeros(2), "b": np.array([1, 2.0])}, "batch_stats": {"c": np.zeros(1)}}
    assert differing_paths(before, [equal]) == differing_paths(before, []) == ()
    assert differing_paths(before, [equal, other]) == ("batch_stats/c", "params/b")
