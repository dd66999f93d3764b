"""Messages if PyTorch or torchax is missing or too new."""

import sys

import numpy as np
import pytest

import osp_jax

GIVEN = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2), "class_names": ("a", "b")}


def test_a_missing_torch_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)

    with pytest.raises(osp_jax.InputError, match=r'PyTorch is not installed; run: pip install "osp_jax\[torch\]"'):
        osp_jax.from_torch(object(), np.zeros((1, 3, 8, 8), np.float32), **GIVEN)


@pytest.mark.torch
def test_a_torchax_that_cannot_be_imported_is_named_with_the_version_of_torch(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setitem(sys.modules, "torchax", None)
    monkeypatch.delitem(sys.modules, "torchax.ops", raising=False)
    monkeypatch.delitem(sys.modules, "torchax.ops.jaten", raising=False)

    with pytest.raises(osp_jax.InputError, match=rf"torchax .* does not fit PyTorch {torch.__version__.split('+')[0]}"):
        osp_jax.from_torch(torch.nn.Linear(2, 2), torch.zeros(1, 3, 8, 8), **GIVEN)
