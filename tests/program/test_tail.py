"""The tail of a network: the kernels that write the head's input, and the program behind them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from osp_jax.interop.function import from_function
from osp_jax.model import every_leaf, in_params
from osp_jax.program.gates import capture
from osp_jax.program.stages import find_stages, stage_features
from osp_jax.program.tail import products_of, rows_of, tail_of, tails_of
from osp_jax.runtime.errors import InputError
from tests.small_networks import MEAN, SHAPE, STD, assert_close, case, model_of, random_variables
from tests.zoo import ZOO, image_shape


class Pooled(nn.Module):
    """A norm over channels behind the mean over positions, biases of every kind in front of it."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.relu(nn.Conv(4, (3, 3), strides=4, name="stem")(x))
        y = nn.Conv(4, (1, 1), name="branch")(x) * self.param("scale", nn.initializers.ones, (4,))
        return nn.Dense(5, name="head")(nn.LayerNorm(name="norm")((x + y).mean((1, 2))))


class Tied(nn.Module):
    """The last kernel is the first one, too."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        layer = nn.Dense(3, name="layer")
        return nn.Dense(5, name="head")(nn.relu(layer(nn.relu(layer(x)))).mean((1, 2)))


class MixedChannels(nn.Module):
    """A softmax over channels in front of the head."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Dense(6, name="layer")(x.mean((1, 2)))
        return nn.Dense(5, name="head")(jnp.roll(x, 1, -1) * x)


def zoo_model(name):
    apply, variables = ZOO[name]()
    given = {"mean": MEAN, "std": STD, "class_names": list("abcde")}
    of_linen = isinstance(variables, dict) and "params" in variables
    return from_function(apply, variables, **given, is_parameter=in_params if of_linen else every_leaf)


def uint8_images(count, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


MOMENTS = np.float32(MEAN), np.float32(STD)


@pytest.mark.parametrize(
    ("name", "kernels"),
    [
        ("resnet8", {"stage3_block1/conv2", "stage3_block1/conv_shortcut"}),
        ("resnet20", {"stage3_block3/conv2"}),  # what earlier blocks write into the stream, this block reads
        ("vgg11", {"conv5_2"}),
        ("allcnn", {"conv8"}),
        ("FlatMLP", {"Dense_1"}),
        ("PoolNet", {"Conv_1"}),  # pooled before its ReLU
        ("FlattenedEarly", {"conv2"}),
    ],
)
def test_the_last_kernels_are_those_that_none_of_them_reads(name, kernels):
    tail = tail_of(case(name).model, 4, SHAPE)
    assert {writer.layer.path for writer in tail.writers} == {f"params/{kernel}/kernel" for kernel in kernels}
    assert len({writer.start for writer in tail.writers}) == 1
    assert not tail.normalised


@pytest.mark.parametrize(
    ("name", "kernels"),
    [
        ("preact_resnet", {"PreActBlock_4/Conv_0", "PreActBlock_4/Conv_2"}),
        ("googlenet", {f"Inception_2/Conv_{number}" for number in (0, 2, 5, 6)}),  # each writes channels of its own
        ("efficientnet", {"Conv_9"}),
        ("convnext", {"ConvNeXtBlock_3/Dense_0"}),
        ("vit", {"EncoderBlock_1/Dense_1"}),
        ("mlp_mixer", {"MixerBlock_1/Dense_3"}),
    ],
)
def test_they_are_in_networks_as_users_write_them(name, kernels):
    tail = tail_of(zoo_model(name), 4, image_shape(name))
    assert {writer.layer.path for writer in tail.writers} == {f"params/{kernel}/kernel" for kernel in kernels}
    assert tail.normalised == (name in ("convnext", "vit", "mlp_mixer"))


@pytest.mark.parametrize("name", ["equinox_cnn", "nnx_vit", "plain_mlp"])
def test_they_are_in_networks_that_are_no_linen_modules(name):
    tail = tail_of(zoo_model(name), 4, image_shape(name))
    (path,) = (writer.layer.path for writer in tail.writers)
    assert path == {"equinox_cnn": "layers/3/weight", "nnx_vit": "blocks/1/linear2/kernel", "plain_mlp": "1/0"}[name]


@pytest.mark.parametrize("name", ["resnet8", "PoolNet"])
def test_the_halves_give_what_the_head_reads_and_the_mean_of_each_channel(name):
    network, images = case(name), uint8_images(4)
    tail = tail_of(network.model, 4, SHAPE)
    ends = tail.late((network.variables, tail.no_shifts()), tail.early(network.variables, (images, *MOMENTS)))
    pixels = (images / np.float32(255) - MOMENTS[0]) / MOMENTS[1]
    _, values, read = capture(network.model.apply, network.gates, network.variables, jnp.asarray(pixels))
    assert_close(ends.inputs, read.reshape(4, -1, read.shape[-1]).mean(1), 1e-4)
    value = values[network.gates.features]
    assert_close(ends.features, value.reshape(4, -1, value.shape[-1]).mean(1), 1e-4)


@pytest.mark.parametrize("name", ["vit", "googlenet"])
def test_rows_times_the_kernel_are_the_writer_s_result(name):
    model, images = zoo_model(name), uint8_images(3, image_shape(name))
    tail = tail_of(model, 3, image_shape(name))
    ends = tail.late((model.variables, tail.no_shifts()), tail.early(model.variables, (images, *MOMENTS)))
    for writer, read, output in zip(tail.writers, ends.reads, ends.outputs, strict=True):
        rows = rows_of(writer, read, output, 3)
        kernel = model.variables["params"]
        for key in writer.layer.path.split("/")[1:]:
            kernel = kernel[key]
        product = rows @ kernel.reshape(-1, kernel.shape[-1])
        assert_close(product, output.reshape(3, -1, output.shape[-1]), 1e-4)
        matrix = rows.reshape(-1, rows.shape[-1])[:7].T
        assert_close(products_of(writer, read, output, 3, matrix), rows @ matrix, 1e-4)


@pytest.mark.parametrize("name", ["resnet8", "vit"])
def test_earlier_stages_have_tails_that_begin_with_the_same_arrays(name):
    model = case(name).model if name == "resnet8" else zoo_model(name)
    shape = SHAPE if name == "resnet8" else image_shape(name)
    images = uint8_images(4, shape)
    tails = tails_of(model, 4, shape, 2)
    assert len(tails) == 3
    assert not tails[0].front
    kept = tails[0].early(model.variables, (images, *MOMENTS))
    pixels = jnp.asarray((images / np.float32(255) - MOMENTS[0]) / MOMENTS[1])
    stages = find_stages(model.apply, model.variables, shape)
    means = stage_features(model.apply, stages, model.variables, pixels)[-3:-1]
    for tail, wanted in zip(tails, means, strict=False):
        features = tail.late((model.variables, tail.no_shifts()), kept).features
        assert_close(features, wanted[:, : features.shape[-1]], 1e-4)
    alone = tail_of(model, 4, shape)
    own = alone.late((model.variables, alone.no_shifts()), alone.early(model.variables, (images, *MOMENTS)))
    whole = tails[-1].late((model.variables, tails[-1].no_shifts()), kept)
    assert_close(whole.features, own.features, 1e-4)
    assert [writer.layer.path for writer in tails[-1].writers] == [writer.layer.path for writer in alone.writers]
    paths = [kernel.layer.path for tail in tails for kernel in (*tail.front, *tail.writers)]
    assert len(set(paths)) == len(paths)


def test_what_is_kept_is_the_same_for_other_values_of_the_last_leaves():
    module, variables = Pooled(), random_variables(Pooled(), np.zeros((1, *SHAPE), np.float32))
    model, images = model_of(module, variables), uint8_images(4)
    tail = tail_of(model, 4, SHAPE)
    (writer,) = tail.writers
    assert writer.layer.path == "params/branch/kernel"
    assert set(writer.biases) >= {"params/branch/bias"}
    assert "params/stem/bias" not in writer.biases
    params = variables["params"]
    other = {"params": {**params, "branch": jax.tree.map(lambda leaf: leaf + 1, params["branch"])}, "batch_stats": {}}
    kept = [tail.early(v, (images, *MOMENTS)) for v in (variables, other)]
    jax.tree.map(np.testing.assert_array_equal, *kept)
    ends = tail.late((other, tail.no_shifts()), kept[0])
    pixels = (images / np.float32(255) - MOMENTS[0]) / MOMENTS[1]
    assert_close(
        ends.inputs @ params["head"]["kernel"] + params["head"]["bias"], model.apply(other, jnp.asarray(pixels)), 1e-4
    )


def test_kernels_that_write_a_part_of_the_channels_are_refused():
    with pytest.raises(InputError, match=r"4 of 22 channels\); choose a method"):
        tail_of(zoo_model("densenet"), 4, image_shape("densenet"))


@pytest.mark.parametrize(("module", "reason"), [(Tied(), "shared"), (MixedChannels(), "mixes the channels")])
def test_a_last_kernel_that_is_shared_or_whose_channels_are_mixed_is_refused(module, reason):
    model = model_of(module, random_variables(module, np.zeros((1, *SHAPE), np.float32)))
    with pytest.raises(InputError, match=reason):
        tail_of(model, 4, SHAPE)
