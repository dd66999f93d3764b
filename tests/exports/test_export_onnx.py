"""ONNX programs give the network's logits in ONNX Runtime, for any number of images."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import osp_jax
from osp_jax.networks import create_model, init_variables
from tests import zoo

pytest.importorskip("jax2onnx")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.torch

NAMES = ("ant", "bee", "cat", "dog", "eel")
GIVEN = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.2), "class_names": NAMES}
KERNEL = np.random.default_rng(1).normal(size=(3, 3, 3, 4)).astype(np.float32)
NHWC = ("NHWC", "HWIO", "NHWC")


def noise(shape: tuple[int, ...], count: int = 5) -> np.ndarray:
    return np.random.default_rng(7).normal(size=(count, *shape)).astype(np.float32)


def logits_of(path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"images": images})[0]


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(np.asarray(expected)).max())


@pytest.mark.parametrize("name", zoo.ZOO)
def test_a_network_in_jax_gives_the_same_logits(name, tmp_path):
    apply, variables = zoo.ZOO[name]()
    model, shape = osp_jax.from_function(apply, variables, **GIVEN), zoo.image_shape(name)
    done = osp_jax.export(model, tmp_path / "net.onnx", image_shape=shape)
    assert done.difference <= 1e-4
    images = noise(shape)
    assert_close(logits_of(tmp_path / "net.onnx", images), apply(variables, images))


OURS = {
    "resnet20": {"width": 4, "convolution": "cpu"},
    "vgg11": {"width": 4, "convolution": "cpu"},
    "cifarnet": {"width": 8, "convolution": "cpu"},
    "allcnn": {"width": 4},
    "vit": {"width": 24},
    "convnext_tiny": {"width": 4},
    "mobilenet_v3_small": {},
    "resnet8": {"width": 4, "dtype": "bfloat16"},
}


@pytest.mark.parametrize("name", OURS)
def test_our_networks_give_the_same_logits(name, tmp_path):
    shape = (32, 32, 3)
    module = create_model(name, 5, shape, **OURS[name])
    model = osp_jax.from_linen(module, init_variables(module, shape, jax.random.key(0)), **GIVEN)
    done = osp_jax.export(model, tmp_path / "net.onnx", image_shape=shape)
    assert done.difference <= 1e-4
    images = noise(shape)
    if OURS[name].get("dtype") != "bfloat16":
        assert_close(logits_of(tmp_path / "net.onnx", images), model.apply(model.variables, images))


OPERATIONS = {
    "max pooling, padded": lambda x: nn.max_pool(x, (3, 3), (2, 2), "SAME"),
    "average pooling, padded": lambda x: nn.avg_pool(x, (3, 3), (2, 2), "SAME"),
    "average pooling without the padding": lambda x: nn.avg_pool(x, (3, 3), (2, 2), "SAME", count_include_pad=False),
    "minimum pooling": lambda x: nn.pooling.min_pool(x, (2, 2), (2, 2)),
    "pooling over channels": lambda x: lax.reduce_window(x * x, 0.0, lax.add, (1, 1, 1, 3), (1, 1, 1, 1), "SAME"),
    "pooling of one axis": lambda x: lax.reduce_window(x[:, :, 0, 0], -jnp.inf, lax.max, (1, 2), (1, 2), "VALID"),
    "pooling with a wide padding": lambda x: lax.reduce_window(
        x, 0.0, lax.add, (1, 2, 2, 1), (1, 1, 1, 1), ((0, 0), (3, 0), (0, 2), (0, 0))
    ),
    "pooling with holes": lambda x: lax.reduce_window(
        x, 0.0, lax.add, (1, 2, 2, 1), (1, 1, 1, 1), "SAME", window_dilation=(1, 2, 2, 1)
    ),
    "padding": lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0)), constant_values=2.0),
    "padding with holes and cropping": lambda x: lax.pad(x, 0.5, ((0, 0, 0), (1, -1, 2), (-1, 3, 1), (0, 0, 0))),
    "reflection": lambda x: jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect"),
    "a transposed convolution": lambda x: lax.conv_transpose(x, KERNEL, (2, 2), "SAME", dimension_numbers=NHWC),
    "a cropping convolution": lambda x: lax.conv_general_dilated(
        x, KERNEL, (1, 1), [(-1, 1), (2, 0)], dimension_numbers=NHWC
    ),
    "a dilated convolution": lambda x: lax.conv_general_dilated(
        x, KERNEL, (1, 1), "SAME", rhs_dilation=(2, 2), dimension_numbers=NHWC
    ),
    "a convolution of channels first": lambda x: lax.conv_general_dilated(
        x.transpose(0, 3, 1, 2), KERNEL.transpose(3, 2, 0, 1), (2, 2), [(1, 1), (1, 1)]
    ),
    "an outer product": lambda x: jnp.einsum("bi,bj->bij", x[:, 0, 0], x[:, 1, 1]),
    "a product of batches": lambda x: jnp.einsum("bhwc,bhvc->bhwv", x, x),
    "stacking": lambda x: jnp.stack([x, x + 1], 1),
    "remainders": lambda x: jnp.mod(x, 0.7),
    "rolling": lambda x: jnp.roll(x, (-1, -1), (1, 2)),
    "indices": lambda x: x[:, jnp.array([0, 3, 1]), jnp.array([1, 1, 2])],
    "windows": lambda x: jnp.tanh(x.reshape(-1, 2, 4, 2, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 16, 3)).reshape(
        x.shape
    ),
    "upsampling": lambda x: jax.image.resize(x, (x.shape[0], 16, 16, 3), "bilinear"),
    "a slice as wide as the largest integer": lambda x: x[: 2**63 - 1, 1:],
}


def of(function) -> osp_jax.Model:
    def apply(scale, images):
        return (function(images) * scale).reshape(images.shape[0], -1)[:, :5]

    return osp_jax.from_function(apply, jnp.float32(1.5), **GIVEN)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_give_the_same_values(name, tmp_path):
    model = of(OPERATIONS[name])
    osp_jax.export(model, tmp_path / "net.onnx", image_shape=(8, 8, 3))
    images = noise((8, 8, 3))
    assert_close(logits_of(tmp_path / "net.onnx", images), model.apply(model.variables, images))


def test_weights_are_initializers_under_their_paths_and_metadata_say_what_the_network_knows(tmp_path):
    apply, variables = zoo.ZOO["tutorial_cnn"]()
    model = osp_jax.from_function(apply, variables, **GIVEN, forgotten=(1,))
    osp_jax.export(model, tmp_path / "net.onnx", image_shape=(16, 16, 3))
    graph = onnx.load(tmp_path / "net.onnx")
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    np.testing.assert_array_equal(stored["params/Dense_1/kernel"], variables["params"]["Dense_1"]["kernel"])
    kernel = np.transpose(variables["params"]["Conv_0"]["kernel"], (3, 2, 0, 1))
    np.testing.assert_array_equal(stored["params/Conv_0/kernel:transpose"], kernel)
    assert [value.name for value in graph.graph.input] == ["images"]
    assert [dim.dim_value for dim in graph.graph.input[0].type.tensor_type.shape.dim][1:] == [16, 16, 3]
    metadata = {entry.key: entry.value for entry in graph.metadata_props}
    assert json.loads(metadata["class_names"]) == list(NAMES)
    assert json.loads(metadata["forgotten"]) == ["bee"]
    assert json.loads(metadata["mean"]) == [0.4, 0.5, 0.6]
    assert metadata["layout"] == "NHWC"
    assert {entry.domain: entry.version for entry in graph.opset_import}[""] == 18


def test_an_operation_that_onnx_lacks_is_named_and_nothing_is_written(tmp_path):
    model = of(lambda x: jnp.linalg.inv(x[..., 0] + 5 * jnp.eye(8)))
    with pytest.raises(osp_jax.InputError, match=r"'lu'.*--format=stablehlo") as caught:
        osp_jax.export(model, tmp_path / "net.onnx", image_shape=(8, 8, 3))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_jax_stays_as_it_was(tmp_path):
    before = dict(vars(jnp)), dict(vars(lax)), nn.Conv.__call__, dict(vars(nn))
    osp_jax.export(of(jnp.tanh), tmp_path / "net.onnx", image_shape=(8, 8, 3))
    assert (dict(vars(jnp)), dict(vars(lax)), nn.Conv.__call__, dict(vars(nn))) == before
    assert not jax.config.jax_enable_x64
