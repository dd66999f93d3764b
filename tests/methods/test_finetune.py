"""Fine-tuning on retained images: the loss by hand, the images it uses, and its effect on the class."""

import jax
import numpy as np

from osp_jax.data.augment import Preparation
from osp_jax.interop.linen import linen_module
from osp_jax.methods.parts.retain_loss import retain_loss
from osp_jax.training.descent import in_train_mode, split_variables


def test_the_loss_is_the_cross_entropy_of_the_images_with_their_labels(digits):
    preparation = Preparation(digits.preparation.mean, digits.preparation.std)  # no augmentation, so by hand
    train, batch = digits.dataset.train, np.array([5, 40, 41])
    params, rest = split_variables(digits.model)
    loss = retain_loss(in_train_mode(digits.model), preparation)
    value, _ = loss(params, rest, {"indices": batch}, jax.random.key(0), train.images, train.labels)
    inputs = (train.images[batch] / 255 - np.array(preparation.mean)) / np.array(preparation.std)
    logits, _ = linen_module(digits.model).apply(
        digits.model.variables, inputs.astype(np.float32), True, mutable=["batch_stats"]
    )
    logits = np.asarray(logits, np.float64)
    expected = [np.log(np.exp(row).sum()) - row[label] for row, label in zip(logits, train.labels[batch], strict=True)]
    np.testing.assert_allclose(value, np.mean(expected), rtol=1e-5)


def test_it_lowers_the_class_keeps_the_others_and_never_sees_a_forgotten_image(digits):
    before = digits.accuracies(digits.model, (3,))
    model, data = digits.forget("finetune", (3,), epochs=10, learning_rate=0.03, batch_size=64)
    forget, retain = digits.accuracies(model, (3,))
    assert before[0] > 0.9
    assert forget < before[0]
    assert retain > before[1] - 0.03
    assert "3" not in data.seen()
    assert sum(data.seen().values()) == (digits.dataset.train.labels != 3).sum()
