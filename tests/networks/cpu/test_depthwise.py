"""Depthwise convolutions as sums of shifted products, compared with XLA's, and the programs that have them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import osp_jax
from osp_jax.networks.cpu import depthwise
from osp_jax.networks.cpu.depthwise import fast_depthwise, plain_convolutions, with_shifts
from osp_jax.program.flat import evaluate, flatten
from osp_jax.program.gates import capture, find_gates
from tests.small_networks import assert_close

GIVEN = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "class_names": list("abcde")}
LAYOUTS = [("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW"), ("CHWN", "IHWO", "CHWN")]


@fast_depthwise
def fast(function, *args):
    return function(*args)


def xla_s(text):
    return text.count("stablehlo.convolution")


def lowered(function, *args):
    return jax.jit(function).lower(*args).as_text()


def operands(layout, batch, side, channels, kernel, filters=None):
    rng, filters = np.random.default_rng(0), filters or channels
    x, w = rng.normal(size=(batch, *side, channels)), rng.normal(size=(*kernel, 1, filters))
    x, w = (
        np.moveaxis(a, ["NHWC".index(c) if "N" in to else "HWIO".index(c) for c in to], range(4))
        for a, to in ((x, layout[0]), (w, layout[1]))
    )
    return jnp.asarray(x, jnp.float32), jnp.asarray(w, jnp.float32)


@st.composite
def problems(draw):
    """(operands, arguments of the convolution); the output has at least one position."""
    layout, channels = draw(st.sampled_from(LAYOUTS)), draw(st.integers(1, 5))
    kernel = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    dilation = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    extents = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    # What XLA itself gets wrong or refuses in the gradient is left out, as in `test_convolution.py`.
    padding = tuple((draw(st.integers(0, min(2, k - 1))), draw(st.integers(0, min(2, k - 1)))) for k in kernel)
    side = tuple(draw(st.integers(max(1, e - sum(p)), 8)) for e, p in zip(extents, padding, strict=True))
    strides = tuple(draw(st.integers(1, 3).filter(lambda s, k=k: s != k or k == 1)) for k in kernel)
    given = operands(layout, draw(st.integers(1, 3)), side, channels, kernel)
    return given, {
        "window_strides": strides,
        "padding": padding,
        "rhs_dilation": dilation,
        "dimension_numbers": layout,
        "feature_group_count": channels,
    }


@settings(deadline=None, max_examples=12)
@given(problems())
def test_values_and_gradients_are_xla_s(problem):
    given, arguments = problem
    convolve = partial(lax.conv_general_dilated, **arguments)
    weights = np.random.default_rng(1).normal(size=jax.eval_shape(convolve, *given).shape).astype(np.float32)

    def loss(function, x, w):
        y = function(x, w)
        return (weights * y).sum(), y

    ours, theirs = partial(loss, partial(fast, convolve)), partial(loss, convolve)
    assert not xla_s(lowered(partial(fast, convolve), *given))
    (_, y), gradients = jax.value_and_grad(ours, (0, 1), has_aux=True)(*given)
    (_, wanted), wanted_gradients = jax.value_and_grad(theirs, (0, 1), has_aux=True)(*given)
    for found, right in zip((y, *gradients), (wanted, *wanted_gradients), strict=True):
        assert_close(found, right, 1e-5)


def test_derivatives_forwards_and_over_stacked_kernels_are_xla_s():
    x, w = operands(LAYOUTS[0], 2, (5, 6), 3, (3, 3))
    convolve = partial(
        lax.conv_general_dilated,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=LAYOUTS[0],
        feature_group_count=3,
    )
    ours, tangents = partial(fast, convolve), (x + 1, w - 1)
    for found, right in zip(jax.jvp(ours, (x, w), tangents), jax.jvp(convolve, (x, w), tangents), strict=True):
        assert_close(found, right, 1e-5)
    stacked = jnp.stack([w, 2 * w])
    assert_close(jax.vmap(ours, (None, 0))(x, stacked), jax.vmap(convolve, (None, 0))(x, stacked), 1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"feature_group_count": 2},
        {"lhs_dilation": (2, 2)},
        {"filters": 8},
        {"kernel": (8, 7)},
        {"dtype": jnp.bfloat16},
        {"dimension_numbers": ("NHWC", "HWIO", "NCHW")},
    ],
    ids=str,
)
def test_what_is_no_plain_depthwise_convolution_is_left_to_xla(changes):
    changes = {"feature_group_count": 4, "dimension_numbers": LAYOUTS[0], **changes}
    x, w = operands(LAYOUTS[0], 2, (9, 9), 4, changes.pop("kernel", (3, 3)), changes.pop("filters", 4))
    w = jnp.repeat(w, 4 // changes["feature_group_count"], axis=2)
    x, w = (a.astype(changes.get("dtype", jnp.float32)) for a in (x, w))
    changes.pop("dtype", None)
    convolve = partial(lax.conv_general_dilated, window_strides=(1, 1), padding=((1, 1), (1, 1)), **changes)
    assert xla_s(lowered(partial(fast, convolve), x, w)) == 1


def test_convolutions_in_calls_loops_and_branches_are_replaced_and_other_programs_stay():
    x, w = operands(LAYOUTS[0], 2, (5, 5), 3, (3, 3))

    def convolve(x, w):
        return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=LAYOUTS[0], feature_group_count=3)

    def network(x, w):
        x = jax.checkpoint(jax.jit(convolve))(x, w)
        x, _ = lax.scan(lambda x, w: (convolve(x, w), None), x, jnp.stack([w, w]))
        return lax.cond(x.sum() > 0, convolve, lambda x, w: x, x, w)

    assert xla_s(lowered(network, x, w)) == 3
    assert not xla_s(lowered(partial(fast, network), x, w))
    assert_close(fast(network, x, w), network(x, w), 1e-5)
    other = jax.make_jaxpr(lambda x: jax.nn.relu(x).sum())(x)
    assert with_shifts(other) is other


class Depthwise(nn.Module):
    """Three convolutions, of which one is depthwise."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.relu(nn.Conv(6, (3, 3))(x))
        x = nn.relu(nn.Conv(6, (3, 3), 2, feature_group_count=6)(x))
        x = nn.relu(nn.Conv(8, (1, 1))(x))
        return nn.Dense(5)(x.mean((1, 2)))


@pytest.fixture(scope="module")
def model():
    module = Depthwise()
    variables = module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    return osp_jax.from_linen(module, {**variables, "batch_stats": {}}, **GIVEN)


def of_function(model):
    return osp_jax.from_function(lambda v, x: Depthwise().apply(v, x), model.variables, **GIVEN)


X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 3)), jnp.float32)


@pytest.mark.parametrize("adapted", [lambda model: model, of_function], ids=["linen", "function"])
def test_an_imported_network_runs_without_its_depthwise_convolution(model, adapted):
    model = adapted(model)
    assert xla_s(lowered(model.apply, model.variables, X)) == 2
    if model.train_apply:
        assert xla_s(lowered(model.train_apply, model.variables, X, jax.random.key(0))) == 2
    with plain_convolutions():
        assert xla_s(lowered(model.apply, model.variables, X)) == 3
        expected = model.apply(model.variables, X)
    assert_close(model.apply(model.variables, X), expected, 1e-5)


def test_programs_that_are_read_have_it_and_those_that_run_have_not(model):
    program = flatten(model.apply, model.variables, X)
    assert [equation.primitive.name for equation in program.jaxpr.eqns].count("conv_general_dilated") == 3
    leaves = jax.tree.leaves(model.variables)
    assert xla_s(lowered(lambda v, x: evaluate(program, [*jax.tree.leaves(v), x]), model.variables, X)) == 2
    assert xla_s(lowered(lambda x: evaluate(program, [*leaves, x], dtype=jnp.float32), X)) == 3
    gates = find_gates(model.apply, model.variables, X)
    assert xla_s(lowered(partial(capture, model.apply, gates), model.variables, X)) == 2


def test_gates_are_those_of_the_plain_network(model):
    plain = lambda variables, x: Depthwise().apply(variables, x)  # noqa: E731
    assert find_gates(model.apply, model.variables, X) == find_gates(plain, model.variables, X)


def test_an_exported_program_is_the_one_of_a_machine_that_replaces_nothing(model, tmp_path, monkeypatch):
    def exported(on_cpu):
        monkeypatch.setattr(depthwise, "on_cpu", lambda: on_cpu)
        done = osp_jax.export(model, tmp_path / f"{on_cpu}.stablehlo", image_shape=(8, 8, 3))
        return jax.export.deserialize(bytearray(done.path.read_bytes())).mlir_module()

    here, there = map(exported, (True, False))  # from one line, which is in the program, too
    assert here == there
    assert xla_s(here)


def test_on_an_accelerator_and_on_split_images_nothing_is_replaced(model, monkeypatch):
    for name, value in (("on_cpu", False), ("on_one_device", False)):
        with monkeypatch.context() as patch:
            patch.setattr(depthwise, name, lambda value=value: value)
            assert xla_s(lowered(lambda v, x: model.apply(v, x), model.variables, X)) == 3
