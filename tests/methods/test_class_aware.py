"""Class-aware scores compared with NumPy and gradients by hand, and the effect of the removal on the digits."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import linen as nn

from osp_jax.data.sources import Split
from osp_jax.interop.linen import from_linen
from osp_jax.methods.class_aware import ClassAware, class_needs
from osp_jax.methods.parts.data import request_data
from osp_jax.methods.parts.filters import filters
from osp_jax.runtime.errors import InputError
from tests.methods.two_convolutions import (
    CLASSES,
    IMAGES,
    LABELS,
    MODEL,
    PREPARATION,
    assert_parameters,
    forward,
    gradients,
    parameters,
    request,
    statistics,
    without,
)
from tests.small_networks import CLASSES as CASE_CLASSES
from tests.small_networks import SHAPE, Encoder, case

EVERYTHING = np.arange(len(LABELS), dtype=np.int32)
THRESHOLDS = (1e-50, 1e-3)


def needs_by_hand(threshold):
    """By convolution (classes, channels): counts of |activation * gradient| above, mean over images, then maximum."""
    p, needs = parameters(), {}
    maps, grads = forward(p), gradients(p)
    for path in ("conv1", "conv2"):
        terms = np.abs(maps[path] * grads[path])
        assert np.abs(terms / max(threshold, 1e-30) - 1).min() > 1e-4  # float32 cannot take another side
        needs[path] = np.array([(terms[c == LABELS] > threshold).mean(0).max((0, 1)) for c in range(CLASSES)])
    return needs


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_what_a_class_needs_is_the_definition(threshold):
    data = request_data(Split(IMAGES, LABELS), EVERYTHING, (1,), PREPARATION, {})
    actual = class_needs(MODEL, filters(statistics().gates), data, EVERYTHING, threshold)
    for path, expected in needs_by_hand(threshold).items():
        assert 0 < expected.mean() < 1
        np.testing.assert_allclose([actual[c][path] for c in range(CLASSES)], expected, rtol=1e-4)


@pytest.mark.parametrize("forget", [(1,), (0, 3)])
@pytest.mark.parametrize("against", ["mean", "max"])
@pytest.mark.parametrize(("layers", "chosen"), [("last", ["conv2"]), ("all", ["conv1", "conv2"])])
def test_the_rule_removes_what_the_forgotten_classes_need_most(forget, against, layers, chosen):
    needs, retained, scores = needs_by_hand(1e-3), [c for c in range(CLASSES) if c not in forget], []
    for path in chosen:
        for j in range(needs[path].shape[1]):
            others = [needs[path][c, j] for c in retained]
            other = max(others) if against == "max" else np.mean(others)
            scores.append((max(needs[path][c, j] for c in forget) - other, path, j))
    number = round(0.25 * len(scores))
    highest = sorted(scores, key=lambda item: -item[0])[:number]  # stable: of equal scores the first
    gone = {path: np.zeros(needs[path].shape[1], bool) for path in chosen}
    for _, path, j in highest:
        gone[path][j] = True
    options = {"layers": layers, "against": against, "fraction": 0.25, "per_class": 100, "threshold": 1e-3}
    actual, _ = request("class-aware", forget, **options)
    assert_parameters(actual, without(parameters(), gone))


class Unwrapped(nn.Module):
    """The network `Wrapped` without jit and rematerialisation, with the same parameters."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = Encoder(name="compiled")(Encoder(name="rematerialised")(x))
        return nn.Dense(CASE_CLASSES, name="head")(x.mean((1, 2)))


def test_blocks_under_jit_and_rematerialisation_are_scored_like_any_other():
    wrapped = case("Wrapped").model
    moments = {"mean": wrapped.mean, "std": wrapped.std, "class_names": wrapped.class_names}
    unwrapped = from_linen(Unwrapped(), wrapped.variables, **moments)
    images = np.random.default_rng(0).integers(0, 256, (4, *SHAPE), dtype=np.uint8)
    indices, units = np.arange(4, dtype=np.int32), filters(case("Wrapped").gates)
    paths = ("rematerialised/second", "compiled/second")
    assert {*paths} < {unit.name for unit in units.groups}
    data = request_data(Split(images, indices // 2), indices, (1,), PREPARATION, {})
    inside, outside = (class_needs(m, units, data, indices, 1e-5) for m in (wrapped, unwrapped))
    assert 0 < np.mean([inside[c][path] for c in inside for path in paths]) < 1
    jax.tree.map(np.testing.assert_array_equal, inside, outside)


@pytest.mark.parametrize("forget", [(3,), (3, 5)])
def test_it_forgets_the_digits(digits, forget):
    before = digits.accuracies(digits.model, forget)
    options = {"threshold": 1e-3, "against": "max"}
    model, data = digits.forget("class-aware", forget, **options)
    assert data.seen() == {str(c): 10 for c in range(10)}
    forgotten, retained = digits.accuracies(model, forget)
    assert before[0] > 0.9
    # Of two classes it may prune few channels that both own, and the two lose a quarter in all.
    assert forgotten < (0.5 if len(forget) == 1 else 0.9) * before[0]
    assert retained > before[1] - 0.2


def test_fine_tuning_never_sees_more_of_the_class_than_the_scores_did(digits):
    model, data = digits.forget("class-aware", (3,), per_class=5, epochs=2, learning_rate=0.03, batch_size=64)
    assert data.seen()["3"] == 5
    assert sum(data.seen().values()) == (digits.dataset.train.labels != 3).sum() + 5
    assert digits.accuracies(model, (3,))[1] > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 1.5}, "fraction"),
        ({"fraction": -0.5}, "fraction"),
        ({"scope": "block"}, "global, layer"),
        ({"against": "least"}, "mean, max"),
        ({"per_class": 0}, "per_class"),
        ({"threshold": -1.0}, "threshold"),
        ({"epochs": -1}, "epochs"),
        ({"learning_rate": -0.1}, "learning_rate"),
        ({"batch_size": 0}, "batch_size"),
        ({"momentum": 2.0}, "momentum"),
        ({"weight_decay": -1.0}, "weight_decay"),
    ],
)
def test_an_option_out_of_range_is_an_input_error(options, message):
    with pytest.raises(InputError, match=message):
        ClassAware(**options)


def test_layers_without_filters_are_an_input_error():
    network = case("LayerNormed")
    with pytest.raises(InputError, match="name others"):
        ClassAware(layers="all").check(network.model, dataclasses.replace(network.gates, filters=()))


def test_statistics_of_another_network_are_an_input_error(resnet8, flat_mlp):
    with pytest.raises(InputError, match="there is no"):
        ClassAware().unlearn(flat_mlp.model, (1,), data=None, statistics=resnet8.statistics, rng=jax.random.key(0))
