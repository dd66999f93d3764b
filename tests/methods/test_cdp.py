"""Class-discriminative pruning compared with its equations in NumPy, and its effect on the digits."""

import dataclasses

import numpy as np
import pytest
from flax import traverse_util

from osp_jax.methods.cdp import Cdp, discrimination
from osp_jax.runtime.errors import InputError
from tests.methods.two_convolutions import CLASSES, LABELS, assert_parameters, forward, parameters, request, without
from tests.small_networks import case

CONVOLUTIONS = {"stored": {"conv1": "bn1", "conv2": "relu2"}, "conv": {"conv1": "conv1", "conv2": "conv2"}}
SHORT = {"epochs": 5, "batch_size": 64}


def tf_idf(A, c, variant):
    """Channel by channel, as the formulas read; `A` (classes, channels)."""
    scores = []
    for j in range(A.shape[1]):
        tf = A[c, j] / sum(A[c])
        if variant == "paper":
            n = sum(A[u, j] >= np.mean(A[u]) for u in range(CLASSES))
            scores.append(tf * np.log((1 + CLASSES) / (1 + n)))
        else:
            n = sum(A[u, j] >= np.mean(A[:, j]) for u in range(CLASSES))
            scores.append(tf * np.log(CLASSES / (1 + n)))
    return scores


def pruned_by_hand(forget, source, variant, direction, scope, sparsity):
    """The parameters, and which channels are gone."""
    original = current = parameters()
    gone = {path: np.zeros(original[f"{path}/kernel"].shape[-1], bool) for path in CONVOLUTIONS[source]}
    for c in forget:
        maps, candidates = forward(current if source == "conv" else original), []
        for path, read in CONVOLUTIONS[source].items():
            left = np.flatnonzero(~gone[path])
            pooled = np.maximum(maps[read], 0).mean((1, 2))[:, left]
            A = np.array([pooled[u == LABELS].mean(0) for u in range(CLASSES)])
            candidates += [(s, path, j) for s, j in zip(tf_idf(A, c, variant), left, strict=True)]
        candidates.sort(reverse=direction == "highest")
        for members in [tuple(gone)] if scope == "global" else [(path,) for path in gone]:
            number = round(sparsity * sum(len(gone[path]) for path in members))
            for _, path, j in [item for item in candidates if item[1] in members][:number]:
                gone[path][j] = True
        current = without(original, gone)
    return current, gone


@pytest.mark.parametrize("forget", [(1,), (0, 3)])
@pytest.mark.parametrize(
    "choices",
    [
        {"source": "stored", "variant": "paper", "direction": "highest", "scope": "global"},
        {"source": "stored", "variant": "released", "direction": "highest", "scope": "layer"},
        {"source": "conv", "variant": "paper", "direction": "highest", "scope": "layer"},
        {"source": "conv", "variant": "released", "direction": "lowest", "scope": "global"},
    ],
    ids=lambda choices: "-".join(choices.values()),
)
def test_pruning_is_the_equations_applied_to_the_images(choices, forget):
    expected, gone = pruned_by_hand(forget, **choices, sparsity=0.15)
    assert sum(map(sum, gone.values())) == 3 * len(forget)
    actual, _ = request("cdp", forget, **choices, sparsity=0.15, per_class=100, epochs=0)
    assert_parameters(actual, expected)


@pytest.mark.parametrize(
    ("options", "scores"),
    [
        # Over channels the classes' means are 2, 0.75 and 2: classes 0 and 1 use channel 0, class 2 uses channel 1.
        ({}, [3 / 4 * np.log(4 / 3), 1 / 4 * np.log(4 / 2)]),
        ({"balance": 4}, [3 / 4 * np.log(4 / 3) * np.log(np.e / 2), 1 / 4 * np.log(4 / 2) * np.log(np.e / 2)]),
        # Over classes the channels' means are 5 / 3 and 1.5: class 0 uses channel 0, class 2 uses channel 1.
        ({"variant": "released"}, [3 / 4 * np.log(3 / 2), 1 / 4 * np.log(3 / 2)]),
    ],
    ids=["paper", "balanced", "released"],
)
def test_a_score_by_hand(options, scores):
    means = np.array([[3.0, 1.0], [1.0, 0.5], [1.0, 3.0]])
    np.testing.assert_allclose(discrimination(means, 0, Cdp(**options)), scores)


@pytest.mark.parametrize("forget", [(3,), pytest.param((3, 5), marks=pytest.mark.slow)])
def test_it_forgets_the_digits_and_what_is_pruned_stays_so_in_the_fine_tuning(digits, forget):
    before = digits.accuracies(digits.model, forget)
    pruned, data = digits.forget("cdp", forget, epochs=0)
    assert data.seen() == {}
    tuned, data = digits.forget("cdp", forget, **SHORT)
    assert not {str(c) for c in forget} & data.seen().keys()
    assert before[0] > 0.9
    forgotten, retained = digits.accuracies(tuned, forget)
    assert forgotten < 0.1
    assert retained > before[1] - 0.05
    pruned, tuned = (traverse_util.flatten_dict(m.variables["params"]) for m in (pruned, tuned))
    zeros = {path: np.asarray(leaf) == 0 for path, leaf in pruned.items()}
    assert sum(zero.sum() for zero in zeros.values()) > 0
    for path, zero in zeros.items():
        assert not np.asarray(tuned[path])[zero].any()
        assert (np.asarray(tuned[path]) != np.asarray(pruned[path]))[~zero].mean() > 0.5


def test_the_measured_source_takes_no_more_images_of_a_class_than_it_is_told():
    _, data = request("cdp", (2,), source="conv", per_class=3, epochs=0)
    assert data.seen() == {str(c): 3 for c in range(CLASSES)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "best"}, "paper, released"),
        ({"direction": "up"}, "highest, lowest"),
        ({"scope": "block"}, "global, layer"),
        ({"source": "images"}, "stored, conv"),
        ({"sparsity": 1.5}, "sparsity"),
        ({"sparsity": -0.1}, "sparsity"),
        ({"per_class": 0}, "per_class"),
        ({"balance": -1.0}, "balance"),
        ({"epochs": -1}, "epochs"),
        ({"learning_rate": -0.1}, "learning_rate"),
        ({"batch_size": 0}, "batch_size"),
        ({"momentum": 2.0}, "momentum"),
        ({"weight_decay": -1.0}, "weight_decay"),
    ],
)
def test_an_option_out_of_range_is_an_input_error(options, message):
    with pytest.raises(InputError, match=message):
        Cdp(**options)


def test_a_network_without_filters_is_an_input_error_only_where_they_are_measured():
    network = case("LayerNormed")
    gates = dataclasses.replace(network.gates, filters=())
    Cdp().check(network.model, gates)
    with pytest.raises(InputError, match="name others"):
        Cdp(source="conv").check(network.model, gates)
