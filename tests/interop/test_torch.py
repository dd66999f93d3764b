"""Networks of PyTorch give the same logits in JAX, and get their weights back under their own keys."""

import numpy as np
import pytest

import osp_jax

torch = pytest.importorskip("torch")
from tests.torch_networks import DenseNet, MobileNetV3, ResNet, ViT, filled  # noqa: E402

pytestmark = pytest.mark.torch

GIVEN = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2), "class_names": tuple("abcdefghij")}
EXAMPLE = torch.zeros(1, 3, 16, 16)

NETWORKS = {
    "ResNet-20": lambda: ResNet(3, 8),
    "DenseNet": DenseNet,
    "MobileNetV3": MobileNetV3,
    "ViT": ViT,
    "ViT, tokens first": lambda: ViT(norm_first=False, batch_first=False),
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
