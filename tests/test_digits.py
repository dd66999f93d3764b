"""The network for the tests of methods and audits."""

import jax
import numpy as np
import pytest

from osp_jax.forward import predict_logits
from tests.digits import VARIANTS, train_digits, trained_digits


@pytest.mark.parametrize("make", [trained_digits, train_digits])
@pytest.mark.parametrize("exclude", VARIANTS.values(), ids=VARIANTS)
def test_the_kept_network_and_one_trained_anew_know_the_digits_that_they_were_trained_on(make, exclude):
    model, dataset, _ = make(exclude)
    test = dataset.test
    logits = predict_logits(model, test, np.arange(len(test.labels)))
    right, known = logits.argmax(-1) == test.labels, ~np.isin(test.labels, exclude)
    assert right[known].mean() > 0.85
    assert not right[~known].any()
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), dataset.image_shape))
    assert jax.tree.map(np.shape, model.variables) == jax.tree.map(np.shape, shapes)
