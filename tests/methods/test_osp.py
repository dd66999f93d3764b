"""OSP compared with NumPy, and the parameters that it changes."""

import jax
import numpy as np
import pytest
from flax import traverse_util

from osp_jax.methods.osp import Osp, scores_and_gains
from osp_jax.methods.parts.groups import chosen_groups, forget_vector
from osp_jax.runtime.errors import InputError
from tests.methods.conftest import request_of


def flat(model) -> dict[str, np.ndarray]:
    return traverse_util.flatten_dict(model.variables["params"], sep="/")


def touched(trained, new) -> set[str]:
    """Paths of the parameters that are not the very arrays they were."""
    before, after = flat(trained.model), flat(new)
    return {path for path in before if before[path] is not after[path]}


def gains_by_definition(layer, forget) -> np.ndarray:
    """Mean over forgotten images less mean over retained images of the spatial maximum; the top quarter by rank."""
    count, total = np.asarray(layer.count, np.float64), np.asarray(layer.max.sum, np.float64)
    forgotten = np.isin(range(len(count)), forget)
    score = total[forgotten].sum(0) / count[forgotten].sum() - total[~forgotten].sum(0) / count[~forgotten].sum()
    k = max(1, round(0.25 * len(score)))
    gains = np.ones(len(score))
    for r, channel in enumerate(np.argsort(-score)[:k], start=1):
        gains[channel] = 1 - max(0.5, 1 - r / k)
    return gains


@pytest.mark.parametrize("forget", [(2,), (0, 4)])
@pytest.mark.parametrize("layers", ["last", "all"])
def test_osp_multiplies_the_leaves_of_a_gate_by_the_gains_of_the_definition(resnet8, layers, forget):
    before = flat(resnet8.model)
    expected = dict(before)
    for group in resnet8.statistics.gates.groups:
        if layers == "all" or group.name == "stage3_block1/bn_shortcut":
            gains = gains_by_definition(resnet8.statistics.layers[group.name], forget)
            assert gains.min() < 1
            for factor in group.factors:  # of an axis of channels: the last one of a norm, the inputs of a kernel
                path = factor.path.removeprefix("params/")
                expected[path] = expected[path] * (gains if group.writers else gains[:, None])
    after = flat(request_of("osp", resnet8, forget, layers=layers))
    assert after.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_allclose(after[path], value, rtol=1e-6, err_msg=path)


def test_only_the_writers_of_the_masked_group_are_new_arrays(resnet8):
    new = request_of("osp", resnet8, (1,))
    writers = ("stage3_block1/bn2", "stage3_block1/bn_shortcut")
    assert touched(resnet8, new) == {f"{path}/{leaf}" for path in writers for leaf in ("scale", "bias")}
    kept = new.variables["batch_stats"], resnet8.model.variables["batch_stats"]
    assert all(a is b for a, b in zip(*map(jax.tree.leaves, kept), strict=True))


def test_erasing_also_makes_new_kernels_of_the_group(resnet8):
    new = request_of("osp", resnet8, (1,), erase=True, strength="hard")
    kernels = {path for path in touched(resnet8, new) if path.endswith("kernel")}
    assert kernels == {"stage3_block1/conv2/kernel", "stage3_block1/conv_shortcut/kernel"}
    gone = np.asarray(flat(new)["stage3_block1/bn2/scale"]) == 0
    assert gone.sum() == 4
    for path in kernels:
        np.testing.assert_array_equal(np.abs(flat(new)[path]).sum((0, 1, 2)) == 0, gone)


@pytest.mark.parametrize("layers", ["last", "all"])
def test_two_requests_in_either_order_have_the_same_result(resnet8, layers):
    def both(first, second):
        once = request_of("osp", resnet8, first, layers=layers)
        return flat(request_of("osp", resnet8, second, once.variables, layers=layers))

    there, back = both((0,), (3,)), both((3,), (0,))
    for path in there:
        np.testing.assert_allclose(there[path], back[path], rtol=3e-7, err_msg=path)


def test_in_the_kernel_the_factor_stands_on_the_convolution_and_not_on_the_norm(resnet8):
    new = request_of("osp", resnet8, (1,), place="kernel")
    gains = gains_by_definition(resnet8.statistics.layers["stage3_block1/bn_shortcut"], (1,))
    paths = {"stage3_block1/conv2/kernel", "stage3_block1/conv_shortcut/kernel"}
    assert touched(resnet8, new) == paths
    for path in paths:
        np.testing.assert_allclose(flat(new)[path], flat(resnet8.model)[path] * gains, rtol=1e-6)


@pytest.mark.parametrize(("fixture", "group"), [("resnet8", "stage3_block1/bn_shortcut"), ("allcnn", "conv8")])
def test_in_the_head_the_factor_stands_on_the_rows_of_the_kernel(request, fixture, group):
    trained = request.getfixturevalue(fixture)
    new = request_of("osp", trained, (1,), place="head")
    gains = gains_by_definition(trained.statistics.layers[group], (1,))
    assert touched(trained, new) == {"head/kernel"}
    np.testing.assert_allclose(flat(new)["head/kernel"], flat(trained.model)["head/kernel"] * gains[:, None], rtol=1e-6)


def test_in_the_head_of_a_flattened_map_a_channel_has_a_row_for_each_position(pool_net):
    new = flat(request_of("osp", pool_net, (1,), place="head"))["Dense_0/kernel"]
    factor = (new / flat(pool_net.model)["Dense_0/kernel"]).reshape(-1, 6, new.shape[-1])
    gains = gains_by_definition(pool_net.statistics.layers["Conv_1"], (1,))
    np.testing.assert_allclose(factor, np.broadcast_to(gains[:, None], factor.shape), rtol=1e-6)


@pytest.mark.parametrize(
    ("layers", "groups"),
    [
        ("last", ("stage3_block1/bn_shortcut",)),
        ("stage[12].*bn1", ("stage1_block1/bn1", "stage2_block1/bn1")),
        ("/input$", ("stage2_block1/conv1/input",)),
    ],
)
def test_layers_are_chosen_by_name(resnet8, layers, groups):
    assert chosen_groups(resnet8.statistics.gates, layers) == groups


def test_all_layers_are_all_groups_from_input_to_output(resnet8):
    names = chosen_groups(resnet8.statistics.gates, "all")
    assert len(names) == 7
    assert names == tuple(group.name for group in resnet8.statistics.gates.groups)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "stage9"}, "stage3_block1/bn_shortcut"),
        ({"layers": "stage("}, "regular expression"),
        ({"reduction": "median"}, "mean, max"),
        ({"against": "least"}, "mean, max"),
        ({"select": "best"}, "fraction, top-k, threshold"),
        ({"strength": "soft"}, "rank, hard, constant"),
        ({"place": "bias"}, "gate, kernel, head"),
        ({"place": "head", "layers": "all"}, "layers=last"),
        ({"amount": 2.0}, "2.0"),
    ],
)
def test_an_option_that_makes_no_sense_is_an_input_error(resnet8, options, message):
    with pytest.raises(InputError, match=message):
        request_of("osp", resnet8, (1,), **options)


@pytest.mark.parametrize("method", ["osp", "osp-fit", "logit-mask"])
def test_statistics_of_another_network_are_an_input_error(method, resnet8, flat_mlp):
    with pytest.raises(InputError, match="there is no"):
        request_of(method, resnet8, (1,), flat_mlp.model.variables)


def test_statistics_of_a_network_of_another_width_are_an_input_error(resnet8):
    wide = {"params": {**resnet8.model.variables["params"]}, "batch_stats": {}}
    wide["params"]["stage3_block1"] = {
        name: {leaf: np.repeat(value, 2, axis=-1) for leaf, value in module.items()}
        for name, module in wide["params"]["stage3_block1"].items()
    }
    with pytest.raises(InputError, match="does not fit"):
        request_of("osp", resnet8, (1,), wide)


def test_the_forget_vector_marks_the_classes_to_forget(resnet8):
    np.testing.assert_array_equal(forget_vector((0, 3), resnet8.statistics), [1, 0, 0, 1, 0])


def test_reported_gains_are_those_of_the_definition(resnet8):
    scores, gains = scores_and_gains(resnet8.statistics, (1,), Osp(layers="all"))
    for name, layer in resnet8.statistics.layers.items():
        np.testing.assert_allclose(gains[name], gains_by_definition(layer, (1,)), rtol=1e-6)
        assert scores[name][np.argmin(gains[name])] >= np.median(scores[name])
