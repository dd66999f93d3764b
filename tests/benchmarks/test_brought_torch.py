"""Other people's PyTorch networks: names in their files, sizes, and exports."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks.brought import home, imports, torch_networks  # noqa: E402
from osp_jax.data.sources import Split  # noqa: E402
from osp_jax.interop.torch import from_torch  # noqa: E402

pytestmark = pytest.mark.torch

NORM = ("weight", "bias", "running_mean", "running_var")
DENSE = ("weight", "bias")
SMALL = {
    "resnet": lambda: torch_networks.ResNet((1, 1, 1), channels=(4, 8, 16)),
    "vit": lambda: torch_networks.ViT(size=8, patch=4, width=8, layers=1, heads=2, hidden=16),
    "micronet": lambda: torch_networks.MicroNet(stem=8, stages=((8, 1, 1), (12, 2, 2)), classes=10),
}


def under(prefix, names):
    return {f"{prefix}.{name}" for name in names}


def resnet_keys(blocks):
    """The keys of the published file, without its 'module.' and with the counters, which it lacks."""
    found = {"conv1.weight", *under("bn1", NORM), *under("linear", DENSE)}
    for stage, block, half in [(s, b, h) for s in (1, 2, 3) for b in range(blocks) for h in (1, 2)]:
        place = f"layer{stage}.{block}"
        found |= {f"{place}.conv{half}.weight", *under(f"{place}.bn{half}", NORM)}
    return found


def vit_keys():
    found = {"embedding.cls_token", "embedding.position_embeddings", *under("classifier", DENSE)}
    found |= under("embedding.patch_embeddings.projection", DENSE)
    for block in range(4):
        place = f"encoder.blocks.{block}"
        for part in ("attention.qkv_projection", "attention.output_projection", "layernorm_1", "layernorm_2"):
            found |= under(f"{place}.{part}", DENSE)
        found |= under(f"{place}.mlp.dense_1", DENSE) | under(f"{place}.mlp.dense_2", DENSE)
    return found


def micronet_keys():
    found = {"conv1.weight", "conv1.mask", *under("bn1", NORM), *under("linear", ("weight", "bias", "mask"))}
    for layer in range(16):
        place = f"layers.{layer}"
        for part in (1, 2, 3):
            found |= {f"{place}.conv{part}.weight", f"{place}.conv{part}.mask", *under(f"{place}.bn{part}", NORM)}
        for part in (1, 2):
            found |= under(f"{place}.fc{part}", ("weight", "bias", "mask"))
        if layer in (0, 4, 13, 15):
            found |= {f"{place}.shortcut.0.weight", f"{place}.shortcut.0.mask", *under(f"{place}.shortcut.1", NORM)}
    return found


@pytest.mark.parametrize(
    ("name", "keys", "entries", "parameters"),
    [
        ("resnet20", resnet_keys(3), 97, 269_722),
        ("resnet32", resnet_keys(5), 157, 464_154),
        ("vit", vit_keys(), 54, 119_098),
        ("micronet", micronet_keys(), 417, 485_330),
    ],
)
def test_a_network_has_the_published_names_and_size(name, keys, entries, parameters):
    network = getattr(torch_networks, name)()
    found = {key for key in network.state_dict() if not key.endswith("num_batches_tracked")}
    assert found == keys
    assert len(found) == entries
    assert sum(value.numel() for value in network.parameters()) == parameters
    assert name in imports.IMPORTED


def test_shapes_that_a_file_would_not_load_into_otherwise():
    shapes = {key: tuple(value.shape) for key, value in torch_networks.vit().state_dict().items()}
    assert shapes["encoder.blocks.3.attention.qkv_projection.weight"] == (144, 48)
    assert shapes["embedding.position_embeddings"] == (1, 65, 48)
    shapes = {key: tuple(value.shape) for key, value in torch_networks.micronet().state_dict().items()}
    assert shapes["layers.2.conv2.weight"] == (50, 1, 3, 3)
    assert shapes["layers.15.fc1.weight"] == (28, 114, 1, 1)


def test_option_a_takes_every_second_pixel_and_pads_channels_with_zeros():
    images = torch.arange(2 * 2 * 4 * 4, dtype=torch.float32).reshape(2, 2, 4, 4) + 1
    shortcut = torch_networks.OptionA(1)(images)
    assert shortcut.shape == (2, 4, 2, 2)
    assert not shortcut[:, [0, 3]].any()
    assert torch.equal(shortcut[:, 1:3], images[:, :, ::2, ::2])


def test_a_masked_weight_counts_for_nothing():
    layer = torch_networks.MaskedConv2d(3, 4, 1)
    images = torch.randn(2, 3, 5, 5)
    layer.mask[1] = 0
    assert torch.equal(layer(images)[:, 1], layer.bias[1].expand(2, 5, 5))
    linear = torch_networks.MaskedLinear(3, 4)
    linear.mask[1] = 0
    assert torch.equal(linear(torch.randn(2, 3))[:, 1], linear.bias[1].expand(2))


@pytest.mark.parametrize("name", SMALL)
def test_a_small_network_gives_the_same_logits_in_jax(name):
    network = SMALL[name]().eval()
    images = torch.randn(5, 3, 8, 8)
    model = from_torch(network, images, mean=(0.5,) * 3, std=(0.5,) * 3, class_names=tuple("abcdefghij"))
    with torch.no_grad():
        wanted = network(images).numpy()
    np.testing.assert_allclose(model.apply(model.variables, images.numpy().transpose(0, 2, 3, 1)), wanted, atol=1e-5)


def test_a_file_is_read_back_under_its_own_keys(tmp_path, monkeypatch):
    network = SMALL["resnet"]()
    file = tmp_path / "weights.th"
    weights = torch.nn.DataParallel(network).state_dict()
    torch.save({"best_prec1": 91.7, "state_dict": weights}, file)
    content = home._read(file)
    assert content["best_prec1"] == 91.7
    assert set(content) == {"best_prec1", *(f"state_dict.{key}" for key in weights)}

    monkeypatch.setattr(torch_networks, "resnet20", SMALL["resnet"])
    draw = np.random.default_rng(0)
    split = Split(draw.integers(0, 256, (7, 8, 8, 3), np.uint8), np.zeros(7, np.int32))
    images = torch.randn(2, 3, 8, 8)
    model = from_torch(network, images, mean=(0.4,) * 3, std=(0.2,) * 3, class_names=tuple("abcdefghij"))
    ours = home._logits(model, [model, model.replace(variables={**model.variables})], split)
    theirs = home._torch_logits("resnet20", content, split, model)
    assert ours.shape == (2, 7, 10)
    for logits in ours:
        assert home.compared_logits(logits, theirs)["differing"] == 0
        assert home.compared_logits(logits, theirs)["difference"] < 1e-4

    del content["state_dict.module.linear.bias"]
    with pytest.raises(RuntimeError, match=r"linear\.bias"):
        home._torch_logits("resnet20", content, split, model)
