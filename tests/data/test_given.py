"""Arrays that a user passes become a data set of their kind."""

import numpy as np
import pytest

from osp_jax.data.given import dataset_of_arrays
from osp_jax.runtime.errors import InputError

LABELS = np.array([0, 1, 0])
IMAGES, TEXTS = np.zeros((3, 4, 5, 1), np.uint8), np.zeros((3, 6), np.uint16)


@pytest.mark.parametrize(
    ("inputs", "variant"), [(IMAGES, "given images (4x5)"), (TEXTS, "given texts (6)")], ids=["images", "texts"]
)
def test_a_data_set_of_arrays_names_their_kind_and_shape(inputs, variant):
    dataset = dataset_of_arrays((inputs, LABELS, inputs, LABELS), ["a", "b"])
    assert dataset.variant == variant
    assert dataset.image_shape == inputs.shape[1:]


def test_training_and_test_arrays_have_one_shape():
    with pytest.raises(InputError, match="one shape"):
        dataset_of_arrays((IMAGES, LABELS, TEXTS, LABELS), ["a", "b"])
