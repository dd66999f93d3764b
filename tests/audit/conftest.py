"""A network that knows the digit 3, one that never saw it, and the images of their audits."""

from typing import NamedTuple

import numpy as np
import pytest

from osp_jax.audit.subject import Images, Subject, images_of
from tests.digits import trained_digits

FORGET = (3,)


class Controls(NamedTuple):
    """The untouched model must be caught by every measure, the retrained one must pass."""

    original: Subject
    retrained: Subject
    images: Images


@pytest.fixture(scope="session")
def controls() -> Controls:
    original, dataset, preparation = trained_digits()
    retrained = trained_digits(exclude=FORGET).model
    train = np.arange(len(dataset.train.labels), dtype=np.int32)
    images = images_of(dataset, train, FORGET, most=400, seed=0)
    return Controls(Subject(original, preparation), Subject(retrained, preparation), images)
