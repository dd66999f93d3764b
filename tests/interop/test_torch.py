"""PyTorch networks give the same logits in JAX, and get their weights back under their own keys."""

import copy

import jax
import jax.export
import numpy as np
import pytest

import osp_jax

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402, N812
from torch import nn  # noqa: E402

from tests import torch_networks  # noqa: E402
from tests.torch_networks import ResNet, filled  # noqa: E402

pytestmark = pytest.mark.torch

GIVEN = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2), "class_names": tuple("abcdefghij")}
EXAMPLE = torch.zeros(1, 3, 16, 16)

NETWORKS = {
    name: torch_networks.NETWORKS[name] for name in ("ResNet-20", "DenseNet", "MobileNetV3", "ViT", "ViT, tokens first")
}


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_those_of_torch_for_any_batch(name):
    module = filled(NETWORKS[name]())

    model = osp_jax.from_torch(module, EXAMPLE, **GIVEN)

    for count in (1, 7):
        images = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(count))
        with torch.no_grad():
            expected = module(images).numpy()
        logits = model.apply(model.variables, images.numpy().transpose(0, 2, 3, 1))
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def small(*layers):
    body = (nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), *layers)
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))


class With(nn.Module):
    """`function(small network, images)`."""

    def __init__(self, function):
        super().__init__()
        self.network, self.function = small(), function

    def forward(self, images):
        return self.function(self.network, images)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(48, 10), nn.Linear(48, 10)
        self.second.weight = self.first.weight

    def forward(self, images):
        features = images.mean(2).flatten(1)
        return self.first(features) + 2 * self.second(features)


def as_jax(images):
    return images.numpy().transpose(0, 2, 3, 1)


def images_of(count, seed=0):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def resnet():
    module = filled(ResNet(1, 8))
    return module, osp_jax.from_torch(module, EXAMPLE, **GIVEN)


class Operations(nn.Module):
    """Many operations side by side, each as people use it."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, padding=1)
        self.convolutions = nn.ModuleList(
            [
                nn.Conv2d(8, 8, 3, groups=8, padding="same", dilation=2),
                nn.Conv2d(8, 4, 3, padding=1, padding_mode="reflect"),
                nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1, groups=2),
            ]
        )
        self.norms = nn.ModuleList([nn.GroupNorm(2, 8), nn.InstanceNorm2d(8), nn.BatchNorm2d(8, affine=False)])
        self.head = nn.LazyLinear(10)

    def forward(self, x):
        x = self.body(x)
        x[:, 0] = x[:, 1] * 2
        features = [*(layer(x) for layer in self.convolutions), *(norm(x) for norm in self.norms)]
        features += [
            F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
            F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
            F.avg_pool2d(x, 3, 2, 1),
            F.adaptive_avg_pool2d(x, 5),
            F.adaptive_max_pool2d(x, 3),
            F.interpolate(x, scale_factor=2, mode="bilinear"),
            F.pixel_shuffle(F.gelu(x, approximate="tanh"), 2),
            F.pad(torch.roll(x, (1, -2), (2, 3)), (1, 2, 0, 1), value=0.5),
            torch.cat(x.chunk(2, 1)[::-1], 1) * torch.arange(8, dtype=torch.float64)[:, None, None].float(),
            torch.einsum("bchw,bdhw->bcd", x, x)[..., None],
            F.layer_norm(x.permute(0, 2, 3, 1), (8,)).permute(0, 3, 1, 2),
            F.scaled_dot_product_attention(x, x, x, is_causal=True),
            x.expand(len(x), -1, -1, -1).std(1, keepdim=True),
        ]
        return self.head(torch.cat([feature.mean((2, 3)) for feature in features], 1))


class Windows(nn.Module):
    """Windows of a Swin, put together again by their number."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.head = nn.Conv2d(3, 8, 2, 2), nn.LayerNorm(8), nn.Linear(8, 10)

    def forward(self, x):
        x = self.norm(self.embed(x).permute(0, 2, 3, 1))
        b, h, w, c = x.shape
        windows = x.view(b, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, 16, c)
        windows = F.softmax(windows @ windows.transpose(1, 2), -1) @ windows
        b = int(windows.shape[0] / (h * w / 4 / 4))
        x = windows.view(b, h // 4, w // 4, 4, 4, -1).permute(0, 1, 3, 2, 4, 5).contiguous().view(b, h, w, -1)
        return self.head(x.mean((1, 2)))


@pytest.mark.parametrize("kind", [Operations, Windows])
def test_logits_are_those_of_torch_in_a_program_of_any_batch(kind):
    module = kind()
    module(EXAMPLE)
    module = filled(module)
    model = osp_jax.from_torch(module, EXAMPLE, **GIVEN)
    shape = (*jax.export.symbolic_shape("batch"), 16, 16, 3)

    program = jax.export.export(jax.jit(model.apply))(model.variables, jax.ShapeDtypeStruct(shape, np.float32))

    for count in (1, 5):
        with torch.no_grad():
            expected = module(images_of(count)).numpy()
        logits = program.call(model.variables, as_jax(images_of(count)))
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


# Weights, there and back


def test_variables_have_the_keys_of_the_state_dict(resnet):
    module, model = resnet

    read = {key for key in module.state_dict() if not key.endswith("num_batches_tracked")}

    assert set(model.variables) == read
    assert {key for key in model.variables if model.is_parameter(key)} == set(dict(module.named_parameters()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_what_did_not_change_comes_back_bit_for_bit_and_the_rest_in_its_dtype(dtype):
    module = filled(small()).to(dtype)
    model = osp_jax.from_torch(module, EXAMPLE, **GIVEN)
    changed = model.replace(variables={**model.variables, "5.weight": 2 * model.variables["5.weight"]})

    weights = osp_jax.to_torch(changed)

    module.load_state_dict(weights, strict=True)
    for key, value in filled(small()).to(dtype).state_dict().items():
        assert weights[key].dtype == value.dtype
        assert torch.equal(weights[key], 2 * value if key == "5.weight" else value), key


def test_tied_weights_are_one_variable_and_change_together():
    module = filled(Tied())
    model = osp_jax.from_torch(module, EXAMPLE, **GIVEN)
    changed = model.replace(variables={**model.variables, "first.weight": model.variables["first.weight"] + 1})

    weights = osp_jax.to_torch(changed)

    assert "second.weight" not in model.variables
    assert torch.equal(weights["first.weight"], weights["second.weight"])
    module.load_state_dict(weights, strict=True)
    with torch.no_grad():
        expected = module(images_of(3)).numpy()
    np.testing.assert_allclose(changed.apply(changed.variables, as_jax(images_of(3))), expected, rtol=1e-4)


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_wrapped_modules_get_their_own_keys_back(wrap):
    module = wrap(filled(small()))

    model = osp_jax.from_torch(module, EXAMPLE, **GIVEN)

    assert set(model.variables) < set(module.state_dict())
    module.load_state_dict(osp_jax.to_torch(model), strict=True)


def test_an_unlearned_network_gives_the_same_logits_in_torch(resnet):
    _, model = resnet
    images = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    statistics = osp_jax.collect_statistics(model, images, np.arange(60) % 10)
    first = osp_jax.unlearn(model, ["a"], "logit-mask", statistics=statistics, accept=True).model
    second = osp_jax.unlearn(first, ["c"], "osp-fit", statistics=statistics, accept=True).model

    forgetful = ResNet(1, 8).eval()
    forgetful.load_state_dict(osp_jax.to_torch(second), strict=True)

    with torch.no_grad():
        expected = forgetful(images_of(8)).numpy()
    logits = np.asarray(second.apply(second.variables, as_jax(images_of(8))))
    kept = [c for c in range(10) if c not in (0, 2)]
    np.testing.assert_allclose(logits[:, kept], expected[:, kept], atol=1e-4)
    assert not {0, 2} & {*expected.argmax(1)}


def test_a_model_that_did_not_come_from_torch_is_refused():
    model = osp_jax.from_function(lambda v, x: x.mean((1, 2)) @ v["w"], {"w": np.zeros((3, 10), np.float32)}, **GIVEN)

    with pytest.raises(osp_jax.InputError, match="did not come from a PyTorch module"):
        osp_jax.to_torch(model)


def test_models_of_one_architecture_share_their_programs(resnet):
    _, model = resnet

    other = osp_jax.from_torch(filled(ResNet(1, 8), seed=1), EXAMPLE, **GIVEN)

    assert other.apply == model.apply
    assert hash(other.apply) == hash(model.apply)
    assert other.apply != osp_jax.from_torch(filled(small()), EXAMPLE, **GIVEN).apply


def test_the_module_stays_as_it_is():
    module = filled(small()).double().train()
    before = copy.deepcopy(module.state_dict())

    osp_jax.from_torch(module, EXAMPLE, **GIVEN)

    assert module.training
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


# Training


def test_training_has_the_gradients_and_running_statistics_of_torch(resnet):
    module, model = copy.deepcopy(resnet[0]), resnet[1]
    images, labels = images_of(6), torch.arange(6)

    def loss(variables):
        logits, after = model.train_apply(variables, as_jax(images), jax.random.key(0))
        return -jax.nn.log_softmax(logits)[np.arange(6), np.arange(6)].mean(), after

    (_, after), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(model.variables)

    F.cross_entropy(module.train()(images), labels).backward()
    for name, parameter in module.named_parameters():
        scale = parameter.grad.abs().max().item()
        np.testing.assert_allclose(gradients[name], parameter.grad, atol=1e-4 * scale, err_msg=name)
    for name, buffer in module.named_buffers():
        if "running" in name:
            np.testing.assert_allclose(after[name], buffer, rtol=1e-4, atol=1e-6, err_msg=name)
    assert after.keys() == model.variables.keys()


def test_dropout_follows_the_key_and_keeps_the_mean():
    module = With(lambda network, images: F.dropout(images.flatten(1), 0.5, network.training)[:, :10])
    model = osp_jax.from_torch(module, EXAMPLE, **GIVEN)
    ones = np.ones((400, 16, 16, 3), np.float32)

    first, other = (np.asarray(model.train_apply(model.variables, ones, jax.random.key(k))[0]) for k in (0, 1))

    assert {*np.unique(first)} == {0.0, 2.0}
    assert abs(first.mean() - 1) < 0.1
    assert (first != other).any()
    assert (model.apply(model.variables, ones) == 1).all()


# What cannot be used


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda network, x: (network(x), x), "returns a tuple; wrap it"),
        (lambda network, x: {"out": network(x)}, "returns a dict with out; wrap it"),
        (lambda network, x: network(x)[:, :4], "has 4 logits and there are 10 class names"),
        (lambda network, x: network(x)[:, :, None], "must return logits"),
        (lambda network, x: network(x).view(2, 10), r"batches of 2 only.*x\.shape\[0\]"),
        (lambda network, x: network(x) if x.sum() > 0 else -network(x), r"test_torch\.py:\d+ .*torch\.where"),
        (lambda network, x: F.dropout(network(x)), r"random numbers in eval mode.*self\.training"),
        (lambda network, x: torch.special.airy_ai(network(x)), r"uses aten.special_airy_ai\.default at test_torch\.py"),
        (lambda network, x: network(x[:, :2]), r"cannot be applied to images of shape \(2, 3, 16, 16\) at"),
    ],
)
def test_a_network_that_cannot_be_brought_is_refused_with_the_remedy(function, message):
    with pytest.raises(osp_jax.InputError, match=message) as error:
        osp_jax.from_torch(With(function).eval(), torch.ones(2, 3, 16, 16), **GIVEN)

    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (ResNet, r"is the class ResNet; give an instance"),
        (lambda: small().state_dict(), "give the torch.nn.Module, after module.load_state_dict"),
        (lambda: "model.pt", "is 'model.pt'; give a torch.nn.Module"),
        (lambda: small().to("meta"), "0.weight of the module is on the device 'meta'"),
        (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), "1.weight of the module has no shape yet"),
    ],
)
def test_what_is_no_trained_module_is_refused(module, message):
    with pytest.raises(osp_jax.InputError, match=message):
        osp_jax.from_torch(module if module is ResNet else module(), EXAMPLE, **GIVEN)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (torch.zeros(3, 16, 16), r"float tensor \(n, c, h, w\)"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "torch.uint8 of shape"),
        (np.zeros((1, 16, 16, 3), np.float32), "has 16 channels"),
        ((3, 16, 16), "give images as the module takes them"),
    ],
)
def test_an_example_that_is_no_batch_of_images_is_refused(example, message):
    with pytest.raises(osp_jax.InputError, match=message):
        osp_jax.from_torch(small(), example, **GIVEN)
