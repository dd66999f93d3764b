"""The transformer encoder of texts, and the analysis of its program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from osp_jax.data.augment import Preparation, normalise
from osp_jax.interop.linen import from_linen
from osp_jax.networks import create_model
from osp_jax.networks.text_encoder import TextEncoder
from osp_jax.program.embedding import find_embedding
from osp_jax.program.gates import gates_of, noise_images
from osp_jax.runtime.errors import InputError

LENGTH, VOCABULARY = 10, 50


@pytest.fixture(scope="module")
def model():
    module = TextEncoder(4, vocabulary=VOCABULARY, width=8, layers=2, heads=2)
    variables = module.init(jax.random.key(0), jnp.zeros((1, LENGTH)), False)
    return from_linen(module, variables, mean=(), std=(), class_names=list("abcd"))


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(0).integers(2, VOCABULARY, (6, LENGTH)).astype(np.uint16)


def logits(model, ids):
    return np.asarray(model.apply(model.variables, normalise(jnp.asarray(ids), *[jnp.zeros(0)] * 2)))


def test_padding_changes_nothing(model, ids):
    padded = ids.copy()
    padded[:, 6:] = 0
    changed = model.variables["params"]["embedding"].at[0].set(100.0)
    other = model.replace(variables={"params": {**model.variables["params"], "embedding": changed}})
    np.testing.assert_array_equal(logits(model, padded), logits(other, padded))
    assert np.abs(logits(model, padded) - logits(model, ids)).max() > 0


def test_an_empty_text_has_finite_logits(model):
    assert np.isfinite(logits(model, np.zeros((1, LENGTH), np.uint16))).all()


def test_its_channels_are_gated_and_its_head_is_found(model):
    gates = gates_of(model.apply, model.variables, noise_images((LENGTH,)))
    names = [group.name for group in gates.groups]
    assert {"block1/norm1", "block1/mlp2/input", "block2/mlp2/input"} <= set(names)
    assert gates.features == names[-1] == "norm"
    assert gates.head.kernel == "params/head/kernel"


def test_the_table_of_embeddings_is_found(model):
    assert find_embedding(model.apply, model.variables, LENGTH) == "params/embedding"
    with pytest.raises(InputError, match="looks up token ids in no table"):
        find_embedding(lambda variables, ids: ids @ variables["kernel"], {"kernel": jnp.ones((LENGTH, 3))}, LENGTH)

    def both(variables, ids):
        return sum(table[ids.astype(int)].sum(1) for table in variables)

    with pytest.raises(InputError, match=r"several tables \(0, 1\)"):
        find_embedding(both, [jnp.ones((5, 3))] * 2, LENGTH)


def test_words_are_dropped_in_training_and_no_token_is_changed(ids):
    preparation = Preparation((), (), word_dropout=0.5)
    augmented = np.asarray(preparation.augmented(jnp.asarray(ids), jax.random.key(0)))
    dropped = augmented == 0
    assert 0.2 < dropped.mean() < 0.8
    np.testing.assert_array_equal(augmented[~dropped], ids[~dropped])
    np.testing.assert_array_equal(
        preparation.without_augmentation().augmented(jnp.asarray(ids), jax.random.key(0)), ids
    )


def test_networks_are_for_images_or_for_texts():
    with pytest.raises(InputError, match="unknown model of texts 'resnet8'; choose one of: text_encoder"):
        create_model("resnet8", 4, (LENGTH,))
    with pytest.raises(InputError, match="unknown model 'text_encoder'"):
        create_model("text_encoder", 4, (8, 8, 1))
    with pytest.raises(InputError, match="has a fixed number of layers"):
        create_model("resnet8", 4, (8, 8, 1), layers=3)
    assert create_model("text_encoder", 4, (LENGTH,), layers=3, vocabulary=77).vocabulary == 77
