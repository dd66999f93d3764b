"""Exports of PyTorch networks: to their own file, and as programs for their own images."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import osp_jax

torch = pytest.importorskip("torch")
from tests.torch_networks import DenseNet, MobileNetV3, ResNet, ViT, filled  # noqa: E402

pytestmark = pytest.mark.torch

GIVEN = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2), "class_names": tuple("abcdefghij")}
NETWORKS = {"ResNet-20": lambda: ResNet(3, 8), "DenseNet": DenseNet, "MobileNetV3": MobileNetV3, "ViT": ViT}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    module = filled(NETWORKS[request.param]())
    return module, osp_jax.from_torch(module, torch.zeros(2, 3, 16, 16), **GIVEN)


def changed(model: osp_jax.Model, key: str) -> osp_jax.Model:
    return model.replace(variables={**model.variables, key: model.variables[key] - 1})


def logits(module, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return module(torch.from_numpy(images)).numpy()


IMAGES = np.random.default_rng(3).normal(size=(5, 3, 16, 16)).astype(np.float32)


def assert_close(found, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_an_onnx_program_takes_the_network_s_own_images(network, tmp_path):
    pytest.importorskip("jax2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    module, model = network
    done = osp_jax.export(model, tmp_path / "net.onnx", image_shape=(16, 16, 3))
    assert "NCHW" in done.detail
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["layout"] == "NCHW"
    assert_close(session.run(["logits"], {"images": IMAGES})[0], logits(module, IMAGES))


def test_a_stablehlo_program_takes_the_network_s_own_images(network, tmp_path):
    module, model = network
    osp_jax.export(model, tmp_path / "net.stablehlo", image_shape=(16, 16, 3))
    program = jax.export.deserialize(bytearray((tmp_path / "net.stablehlo").read_bytes()))
    assert_close(program.call(IMAGES), logits(module, IMAGES))


def test_a_checkpoint_gets_the_new_weights_and_keeps_all_else(network, tmp_path):
    module, model = network
    state = {f"module.{key}": value for key, value in module.state_dict().items()}
    torch.save({"epoch": 7, "state_dict": state, "optimizer": {"lr": 0.1}}, tmp_path / "in.pt")
    key = next(name for name in reversed(model.variables) if name.endswith("bias"))
    done = osp_jax.export(changed(model, key), tmp_path / "out.pt", like=tmp_path / "in.pt")
    after = torch.load(tmp_path / "out.pt", weights_only=True)
    assert done.changed == 1
    assert (after["epoch"], after["optimizer"]) == (7, {"lr": 0.1})
    assert list(after["state_dict"]) == list(state)
    differing = [name for name, value in after["state_dict"].items() if not torch.equal(value, state[name])]
    assert differing == [f"module.{key}"]
    assert all(value.dtype == state[name].dtype for name, value in after["state_dict"].items())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_without_a_file_the_weights_are_the_state_dict(network, suffix, tmp_path):
    module, model = network
    path = tmp_path / f"net{suffix}"
    osp_jax.export(model, path)
    if suffix == ".pt":
        state = torch.load(path, weights_only=True)
    else:
        from safetensors.torch import load_file

        state = load_file(path)
    fresh = type(module)(3, 8) if isinstance(module, ResNet) else type(module)()
    fresh.load_state_dict(state)
    np.testing.assert_array_equal(logits(fresh.eval(), IMAGES), logits(module, IMAGES))


def test_bfloat16_weights_stay_bit_identical_where_nothing_changed(tmp_path):
    module = filled(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 10))).bfloat16()
    torch.save(module.state_dict(), tmp_path / "in.pt")
    model = osp_jax.from_torch(module, torch.zeros(2, 3, 4, 4), **GIVEN)
    assert osp_jax.export(model, tmp_path / "same.pt", like=tmp_path / "in.pt").changed == 0
    osp_jax.export(changed(model, "1.bias"), tmp_path / "out.pt", like=tmp_path / "in.pt")
    before, after = (torch.load(tmp_path / name, weights_only=True) for name in ("in.pt", "out.pt"))
    assert torch.equal(before["1.weight"], after["1.weight"])
    assert after["1.bias"].dtype == torch.bfloat16
    expected = np.asarray(jnp.asarray(model.variables["1.bias"] - 1, jnp.bfloat16), np.float32)
    np.testing.assert_array_equal(after["1.bias"].float().numpy(), expected)
