"""The trivial baseline."""

import jax.numpy as jnp
import numpy as np
import pytest

from osp_jax.trees import changed_paths
from tests.methods.conftest import request_of
from tests.small_networks import assert_close, case


@pytest.mark.parametrize("forget", [(0,), (1, 4)])
@pytest.mark.parametrize("fixture", ["flat_mlp", "allcnn"])
def test_the_class_is_never_predicted_and_the_other_logits_are_unchanged(request, fixture, forget):
    trained = request.getfixturevalue(fixture)
    images = case("FlatMLP").images
    before, after = (
        np.asarray(model.apply(model.variables, images))
        for model in (trained.model, request_of("logit-mask", trained, forget))
    )
    others = [c for c in range(5) if c not in forget]
    assert_close(after[:, others], before[:, others], 1e-6)
    assert after[:, list(forget)].max() < -1e8
    assert np.isfinite(after).all()
    assert not np.isin(after.argmax(1), forget).any()


def test_only_the_bias_of_the_head_is_new(flat_mlp):
    new, old = request_of("logit-mask", flat_mlp, (2,)).variables, flat_mlp.model.variables
    assert changed_paths(old, new) == ("params/Dense_2/bias",)
    kept = jnp.array([0, 1, 3, 4])
    biases = (variables["params"]["Dense_2"]["bias"][kept] for variables in (new, old))
    np.testing.assert_array_equal(*biases)
