"""Shadow models are trained on the small data set of the training tests."""

from tests.training.conftest import dataset  # noqa: F401
