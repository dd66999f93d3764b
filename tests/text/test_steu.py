"""STEU: the rows that it trains, and that nothing else changes."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from osp_jax.data.augment import Preparation
from osp_jax.data.dataset import Split
from osp_jax.interop.linen import from_linen
from osp_jax.methods import unlearn_classes
from osp_jax.methods.parts.data import request_data
from osp_jax.methods.steu import Steu, chosen_tokens, token_scores
from osp_jax.networks.text_encoder import TextEncoder
from osp_jax.runtime.errors import InputError
from osp_jax.statistics import collect_statistics
from osp_jax.trees import leaves_by_path

TABLE, HEAD = "params/embedding", ("params/head/kernel", "params/head/bias")
VOCABULARY, LENGTH, CLASSES, FORGET = 60, 8, 4, (2,)
FAST = Steu(k=8, epochs=10, batch_size=16, learning_rate=0.05)


def class_texts(label: int, draw: np.random.Generator) -> np.ndarray:
    """Half of the tokens of a text are of its class, 10 + 5 * label and above, half are common, 30 and above."""
    own, common = draw.integers(10 + 5 * label, 15 + 5 * label, 4), draw.integers(30, VOCABULARY, 4)
    return draw.permutation(np.concatenate([own, common]))


@pytest.fixture(scope="module")
def trained():
    """A model, the statistics and the split; the head is fitted to the features of a random encoder."""
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), 32).astype(np.int32)
    split = Split(np.stack([class_texts(c, draw) for c in labels]).astype(np.uint16), labels)
    module = TextEncoder(CLASSES, vocabulary=VOCABULARY, width=48, layers=1, heads=2)
    variables = module.init(jax.random.key(0), jnp.zeros((1, LENGTH)), False)
    model = from_linen(module, variables, mean=(), std=(), class_names=list("abcd"))
    features = collect_statistics(model, [(split.images, split.labels)], keep_features=len(labels)).features
    design = np.concatenate([np.asarray(features), np.ones((len(labels), 1))], 1)
    solved = np.linalg.lstsq(design, 6 * np.eye(CLASSES)[labels] - 3, rcond=None)[0]
    params = variables["params"] | {"head": {"kernel": jnp.float32(solved[:-1]), "bias": jnp.float32(solved[-1])}}
    model = model.replace(variables={"params": params})
    statistics = collect_statistics(model, [(split.images, split.labels)], keep_features=64)
    return model, statistics, split


def asked(trained, method, **changes):
    model, statistics, split = trained
    data = request_data(split, np.arange(len(split.labels), dtype=np.int32), FORGET, Preparation((), ()), None)
    given = {"data": data, "statistics": statistics, "rng": jax.random.key(0)}
    return unlearn_classes(method, changes.get("model", model), FORGET, **given)


def accuracies(model, split):
    right = np.asarray(model.apply(model.variables, jnp.float32(split.images))).argmax(-1) == split.labels
    gone = np.isin(split.labels, FORGET)
    return right[gone].mean(), right[~gone].mean()


def rows_changed(before, after):
    old, new = (np.asarray(leaves_by_path(model.variables)[TABLE]) for model in (before, after))
    return np.flatnonzero((old != new).any(1))


def test_scores_are_those_of_the_paper_by_hand():
    forgotten, retained = np.array([[5, 5, 6, 0], [5, 7, 1, 0]]), np.array([[6, 6, 7, 8]])
    scores = token_scores(forgotten, retained, 10)  # special tokens 0 and 1 count as none
    assert scores[5] == pytest.approx(math.log2((3 / 5) / (3 / 9)) * math.log(4))
    assert scores[6] == pytest.approx(math.log2((1 / 5) / (3 / 9)) * math.log(2))
    assert scores[7] == pytest.approx(math.log2((1 / 5) / (2 / 9)) * math.log(2))
    assert scores[[0, 1, 8, 9]].tolist() == [0] * 4


def test_the_rows_of_the_class_are_chosen_and_never_special_ones(trained):
    _, _, split = trained
    gone = np.isin(split.labels, FORGET)
    given = split.images[gone], split.images[~gone], VOCABULARY, jax.random.key(0)
    assert chosen_tokens(Steu(k=5), *given).tolist() == [20, 21, 22, 23, 24]
    for tokens in ("score", "frequent", "random"):
        chosen = chosen_tokens(Steu(k=1000, tokens=tokens, min_texts=1), *given)
        assert chosen.min() >= 2
        assert len(set(chosen)) == len(chosen)
    counts = np.bincount(given[0].ravel(), minlength=VOCABULARY)
    frequent = chosen_tokens(Steu(k=3, tokens="frequent"), *given)
    assert sorted(counts[frequent]) == sorted(counts)[-3:]
    assert len(chosen_tokens(Steu(k=1000, min_texts=len(given[0]) + 1), *given)) == 0
    assert len(chosen_tokens(Steu(k=0), *given)) == 0


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_the_class_is_forgotten_and_all_else_stays_to_the_bit(trained, loss):
    model, _, split = trained
    after = asked(trained, dataclasses.replace(FAST, loss=loss))
    assert accuracies(model, split)[0] > 0.9
    forgotten, retained = accuracies(after, split)
    assert forgotten < 0.1
    assert retained > 0.9
    assert after.forgotten == FORGET
    old, new = leaves_by_path(model.variables), leaves_by_path(after.variables)
    for path, leaf in old.items():
        same = np.array_equal(np.asarray(leaf), np.asarray(new[path]))
        assert same == (path not in (TABLE, *HEAD)), path
    assert set(rows_changed(model, after)) <= set(range(2, VOCABULARY))
    assert 0 < len(rows_changed(model, after)) <= FAST.k


def test_controls_train_the_head_alone_or_the_rows_alone(trained):
    model, _, _ = trained
    old = leaves_by_path(model.variables)
    head_alone = leaves_by_path(asked(trained, dataclasses.replace(FAST, k=0)).variables)
    assert [path for path in old if head_alone[path] is not old[path]] == [p for p in old if p in HEAD]
    rows_alone = asked(trained, dataclasses.replace(FAST, head=False))
    new = leaves_by_path(rows_alone.variables)
    assert [path for path in old if not np.array_equal(old[path], new[path])] == [TABLE]
    assert rows_changed(model, rows_alone).tolist() == rows_changed(model, asked(trained, FAST)).tolist()
    random = rows_changed(model, asked(trained, dataclasses.replace(FAST, tokens="random", k=4)))
    assert len(random) <= 4
    assert random.tolist() != rows_changed(model, asked(trained, dataclasses.replace(FAST, k=4))).tolist()


def test_the_same_request_gives_the_same_result(trained):
    one, other = (asked(trained, FAST).variables for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))


def test_the_loss_may_be_over_all_logits(trained):
    model, _, split = trained
    texts = jnp.float32(split.images[np.isin(split.labels, FORGET)])

    def largest(method):
        return np.asarray(model.apply(asked(trained, method).variables, texts)).max(-1).mean()

    assert largest(dataclasses.replace(FAST, over="all")) < largest(FAST)


def test_a_network_of_images_and_wrong_options_are_refused_in_one_line(trained):
    model, _, _ = trained
    with pytest.raises(InputError, match="this network reads images; give a network of texts, or take another method"):
        Steu().check(model.replace(mean=(0.5,), std=(0.5,)), None)
    with pytest.raises(InputError, match="no table params/none; correct the option embedding"):
        Steu(embedding="params/none").check(model, None)
    Steu(embedding=TABLE).check(model, None)
    for wrong in ({"k": 0, "head": False}, {"tokens": "all"}, {"loss": "hinge"}, {"over": "some"}, {"min_texts": 0}):
        with pytest.raises(InputError):
            Steu(**wrong)
