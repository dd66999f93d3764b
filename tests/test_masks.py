"""Soft masks: gains from scores, and a product with the parameters that gates the activations."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from osp_jax.masks import (
    STRENGTHS,
    apply_mask,
    build_head_mask,
    build_kernel_mask,
    build_mask,
    channel_gains,
    compose_masks,
)
from osp_jax.runtime.errors import InputError
from osp_jax.trees import changed_paths, leaves_by_path
from tests.small_networks import (
    DEEP,
    FOREIGN,
    MODELS,
    RELU_MODELS,
    assert_close,
    captured_forward,
    case,
    gated_forward,
    random_gains,
    slow_where,
    sown_forward,
)

# Large programs, whose gates tests/program holds to the same equality.
ALL = slow_where([*MODELS, *FOREIGN], [*DEEP, "resnet50"])
ELEMENTS = st.floats(-10, 10, width=32, allow_subnormal=False)
SCORES = hnp.arrays(np.float32, st.sampled_from([1, 3, 8, 13]), elements=ELEMENTS)


def assert_bit_equal(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(np.testing.assert_array_equal, first, second)


def random_mask(name: str, seed: int = 0, **options):
    gates = case(name).gates
    return build_mask(random_gains(gates, seed), gates, **options)


# What a mask does to the network


@pytest.mark.parametrize("name", ALL)
def test_masking_equals_multiplying_the_channels_of_every_group(name):
    network = case(name)
    gains = random_gains(network.gates)
    gated = jax.jit(lambda variables, gains: gated_forward(network, variables, gains))(network.variables, gains)
    masked, _ = sown_forward(name)(apply_mask(network.variables, build_mask(gains, network.gates)))
    assert_close(masked, gated)
    original, _ = sown_forward(name)(network.variables)
    assert abs(np.asarray(gated - original)).max() > 0.01 * abs(np.asarray(original)).max()  # the gains do matter


@pytest.mark.parametrize("name", slow_where([*RELU_MODELS, *FOREIGN, "vit"], DEEP))
def test_masking_one_group_scales_its_value_by_the_gains_where_it_stands_at_the_writers(name):
    variables, gates = case(name).variables, case(name).gates
    gains, (_, original, _) = random_gains(gates), captured_forward(name)(variables)
    for group in gates.groups:
        mask = build_mask({group.name: gains[group.name]}, gates)
        assert mask.keys() == {factor.path for factor in group.factors}
        _, masked, _ = captured_forward(name)(apply_mask(variables, mask))
        expected = gains[group.name] * original[group.name] if group.writers else original[group.name]
        assert_close(masked[group.name], expected)


@pytest.mark.parametrize("name", ALL)
def test_erasing_leaves_the_outputs_as_masking_does(name):
    network = case(name)
    masked, erased = (
        sown_forward(name)(apply_mask(network.variables, random_mask(name, erase=erase)))[0] for erase in (False, True)
    )
    assert_close(erased, masked)


# One channel's kernel under a layer norm is part of every channel's mean and variance; the kernel in front of a
# pre-activation norm also writes the residual stream.
@pytest.mark.parametrize(
    ("name", "group"), [("LayerNormed", "norm1"), ("LayerNormed", "norm2"), ("PreActivation", "bn1a")]
)
def test_erasing_keeps_a_kernel_that_is_read_elsewhere_too(name, group):
    _, variables, _, gates = case(name)
    (size,) = (g.channels for g in gates.groups if g.name == group)
    gains = {group: jnp.ones(size).at[0].set(0)}
    masked, erased = (
        sown_forward(name)(apply_mask(variables, build_mask(gains, gates, erase=erase)))[0] for erase in (False, True)
    )
    assert_close(erased, masked)


@pytest.mark.parametrize("name", ["resnet8", "vgg11", "allcnn"])
def test_erasing_zeroes_the_kernels_of_channels_of_gain_0_and_no_other_weight(name):
    _, variables, _, gates = case(name)
    gains = random_gains(gates)
    before = leaves_by_path(variables)
    masked = leaves_by_path(apply_mask(variables, build_mask(gains, gates)))
    erased = leaves_by_path(apply_mask(variables, build_mask(gains, gates, erase=True)))
    zeroed = {kernel.path: gains[g.name] == 0 for g in gates.groups for kernel in g.kernels}
    assert len(zeroed) >= len(gates.groups) - 1
    for path in before:
        if path in zeroed:
            assert not erased[path][..., zeroed[path]].any()
            np.testing.assert_array_equal(erased[path], jnp.where(zeroed[path], 0, masked[path]))
        else:
            np.testing.assert_array_equal(erased[path], masked[path])


def test_a_factor_on_the_kernel_alone_does_not_gate_in_front_of_a_batch_norm():
    network = case("resnet8")
    gains = random_gains(network.gates)
    gated = jax.jit(lambda variables, gains: gated_forward(network, variables, gains))(network.variables, gains)
    literal, _ = sown_forward("resnet8")(apply_mask(network.variables, build_kernel_mask(gains, network.gates)))
    assert abs(np.asarray(literal - gated)).max() > 0.05 * abs(np.asarray(gated)).max()


def test_the_kernel_mask_touches_kernels_only():
    gates = case("resnet8").gates
    mask = build_kernel_mask(random_gains(gates), gates)
    assert mask.keys() == {kernel.path for group in gates.groups for kernel in group.kernels}
    assert {path.rpartition("/")[2] for path in mask} == {"kernel"}


@pytest.mark.parametrize("name", ["resnet8", "resnet18", "allcnn", "FlatMLP", "PoolNet", "vit"])
def test_a_mask_on_the_head_equals_multiplying_the_features(name):
    variables, gates = case(name).variables, case(name).gates
    gain = random_gains(gates)[gates.features]
    mask = build_head_mask(gain, gates)
    assert mask.keys() == {gates.head.kernel}
    _, values, head_input = captured_forward(name)(variables)
    masked, _ = sown_forward(name)(apply_mask(variables, mask))
    # The head of PoolNet reads the last activation flattened.
    features = (values[gates.features] * gain).reshape(head_input.shape) if name == "PoolNet" else head_input * gain
    leaves = leaves_by_path(variables)
    kernel = leaves[gates.head.kernel]
    logits = features @ kernel.reshape(-1, kernel.shape[-1]) + leaves[gates.head.bias]
    assert_close(masked, logits.mean((1, 2)) if name == "allcnn" else logits)


# Masks as a structure


def test_a_mask_of_ones_changes_nothing():
    _, variables, _, gates = case("resnet8")
    ones = {group.name: jnp.ones(group.channels) for group in gates.groups}
    assert_bit_equal(apply_mask(variables, build_mask(ones, gates, erase=True)), variables)


def test_parameters_outside_the_mask_and_the_batch_statistics_are_the_same_arrays():
    _, variables, _, gates = case("resnet8")
    name = gates.groups[-1].name
    mask = build_mask({name: random_gains(gates)[name]}, gates)
    masked = apply_mask(variables, mask)
    assert set(changed_paths(variables, masked)) == mask.keys()


def test_the_order_of_two_masks_does_not_matter():
    _, variables, _, _ = case("resnet8")
    a, b = random_mask("resnet8", 1), random_mask("resnet8", 2)
    there, back = apply_mask(apply_mask(variables, a), b), apply_mask(apply_mask(variables, b), a)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=3e-7), there, back)


def test_a_composed_mask_equals_applying_both():
    _, variables, _, gates = case("resnet8")
    gains = random_gains(gates)
    some = {name: gain for name, gain in gains.items() if "bn1" in name}
    a, b = build_mask(some, gates, erase=True), random_mask("resnet8", 2)  # they overlap in part
    both = apply_mask(apply_mask(variables, a), b)
    for composed in (compose_masks(a, b), compose_masks(b, a)):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=3e-7), apply_mask(variables, composed), both)
    assert_bit_equal(compose_masks(a, {}), a)


def test_masks_apply_under_jit_and_vmap_as_in_a_loop():
    variables = case("resnet8").variables
    masks = [random_mask("resnet8", seed) for seed in range(3)]
    loop = [apply_mask(variables, mask) for mask in masks]
    for mask, expected in zip(masks, loop, strict=True):
        assert_bit_equal(jax.jit(apply_mask)(variables, mask), expected)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *masks)
    batched = jax.jit(jax.vmap(lambda mask: apply_mask(variables, mask)))(stacked)
    for i, expected in enumerate(loop):
        assert_bit_equal(jax.tree.map(lambda leaf, i=i: leaf[i], batched), expected)


@pytest.mark.parametrize(
    ("mask", "where"),
    [
        ({"params/no_such_layer/kernel": np.ones(4)}, "no params/no_such_layer"),
        ({"params/head/scale": np.ones(4)}, "no params/head/scale"),
        ({"stem_bn/scale": np.ones(4)}, "no stem_bn/scale"),
        ({"params/stem_bn/scale": np.ones(3)}, r"params/stem_bn/scale is \(3,\) against \(4,\)"),
        ({"params/stem_bn/scale": np.ones((2, 4))}, r"params/stem_bn/scale is \(2, 4\)"),
        ({"params/stem_bn": np.ones(4)}, "no params/stem_bn;"),
        ({"params/stem_bn/scale/deeper": np.ones(4)}, "no params/stem_bn/scale/deeper"),
    ],
    ids=[
        "no such module",
        "no such leaf",
        "without the collection",
        "wrong channels",
        "more dimensions",
        "leaf for a module",
        "module for a leaf",
    ],
)
def test_a_mask_that_does_not_fit_is_an_input_error_that_says_where(mask, where):
    with pytest.raises(InputError, match=where):
        apply_mask(case("resnet8").variables, mask)


def test_gains_for_an_unknown_group_are_an_input_error_that_lists_the_groups():
    gates = case("FlatMLP").gates
    for build in (build_mask, build_kernel_mask):
        with pytest.raises(InputError, match="Dense_0, Dense_1"):
            build({"Dense_9": jnp.ones(8)}, gates)


# Gains from scores


@pytest.mark.parametrize(
    ("scores", "options", "gains"),
    [
        ([4, 1, 3, 2], {"select": "top-k", "amount": 1}, [0.5, 1, 1, 1]),
        ([4, 1, 3, 2], {"select": "top-k", "amount": 2}, [0.5, 1, 0.5, 1]),
        ([1, 8, 6, 7, 5], {"select": "top-k", "amount": 4}, [1, 0.25, 0.5, 0.5, 0.5]),
        ([4, 1, 3, 2], {"select": "top-k", "amount": 0}, [1, 1, 1, 1]),
        ([4, 1, 3, 2], {"select": "fraction", "amount": 0.25}, [0.5, 1, 1, 1]),
        ([4, 1, 3, 2], {"select": "fraction", "amount": 1.0, "strength": "hard"}, [0, 0, 0, 0]),
        ([4, 1, 3], {"select": "fraction", "amount": 0.1, "strength": "hard"}, [0, 1, 1]),  # at least one
        ([4, 1, 3, 2], {"select": "threshold", "amount": 2.0, "strength": "hard"}, [0, 1, 0, 1]),  # above, not at
        ([4, 1, 3, 2], {"select": "threshold", "amount": 9.0}, [1, 1, 1, 1]),
        ([4, 1, 3, 2], {"select": "threshold", "amount": 2.0, "strength": "constant", "constant": 0.75},
         [0.25, 1, 0.25, 1]),
        ([5, 5, 5, 5], {"select": "top-k", "amount": 2, "strength": "hard"}, [0, 0, 1, 1]),  # ties by position
    ],
)  # fmt: skip
def test_gains_follow_the_rules_by_hand(scores, options, gains):
    np.testing.assert_allclose(channel_gains(jnp.array(scores, float), **options), gains, rtol=1e-6)


@settings(deadline=None, max_examples=30)
@given(SCORES, st.data())
def test_exactly_k_channels_are_selected_and_a_higher_score_never_gets_a_higher_gain(scores, data):
    k = data.draw(st.integers(0, len(scores)))
    strength = data.draw(st.sampled_from(STRENGTHS))
    gains = np.asarray(channel_gains(jnp.asarray(scores), select="top-k", amount=k, strength=strength))
    assert gains.min() >= 0
    assert gains.max() <= 1
    assert (gains < 1).sum() == k
    assert not (np.greater.outer(scores, scores) & np.greater.outer(gains, gains)).any()


@settings(deadline=None, max_examples=30)
@given(SCORES)
def test_strengths_by_rank_are_the_formula_s(scores):
    k = len(scores)
    gains = channel_gains(jnp.asarray(scores), select="top-k", amount=k)
    expected = [float(1 - max(Fraction(1, 2), 1 - Fraction(r, k))) for r in range(1, k + 1)]
    np.testing.assert_allclose(np.sort(gains), expected, rtol=1e-5)


def test_gains_are_the_same_under_jit_and_for_a_batch_of_scores():
    scores = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8)), jnp.float32)
    for select, amount in [("fraction", 0.5), ("top-k", 3), ("threshold", 0.2)]:
        loop = jnp.stack([channel_gains(s, select=select, amount=amount) for s in scores])
        batched = jax.jit(jax.vmap(lambda s, rule=select, a=amount: channel_gains(s, select=rule, amount=a)))(scores)
        np.testing.assert_array_equal(batched, loop)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"select": "best"}, "fraction, top-k, threshold"),
        ({"strength": "soft"}, "rank, hard, constant"),
        ({"select": "fraction", "amount": 1.5}, "1.5"),
        ({"select": "fraction", "amount": -0.1}, "-0.1"),
        ({"select": "top-k", "amount": 5}, "4 channels"),
        ({"strength": "constant", "constant": 1.5}, "1.5"),
    ],
)
def test_a_rule_that_makes_no_sense_is_an_input_error(options, message):
    with pytest.raises(InputError, match=message):
        channel_gains(jnp.arange(4.0), **options)
