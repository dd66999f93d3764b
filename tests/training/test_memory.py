"""Memory is estimated from shapes: a training that cannot fit is refused before any computation."""

import jax
import pytest

from osp_jax.data import memory as available
from osp_jax.networks import count_parameters, create_model, variable_shapes
from osp_jax.runtime.errors import InputError
from osp_jax.training import memory

SHAPE = (8, 8, 1)


@pytest.fixture
def one_gigabyte(monkeypatch):
    for module in (available, memory):
        monkeypatch.setattr(module, "available_memory", lambda: 1e9)


def test_parameters_count_four_times_and_activations_by_the_image():
    model = create_model("resnet8", 10, SHAPE, width=4)
    shapes = variable_shapes(model, SHAPE)
    parameters = memory.training_bytes(model, SHAPE, 0)
    assert parameters >= 16 * count_parameters(shapes)
    one, ten = (memory.training_bytes(model, SHAPE, number) - parameters for number in (1, 10))
    assert ten == 10 * one
    outputs = jax.eval_shape(
        lambda v, x: model.apply(v, x, train=False), shapes, jax.ShapeDtypeStruct((1, *SHAPE), "f4")
    )
    assert one > 100 * outputs.size


def test_a_wide_network_and_a_large_batch_are_refused_with_both_figures(one_gigabyte):
    memory.check_memory(create_model("resnet8", 10, SHAPE), SHAPE, 64)
    wide = create_model("resnet8", 10, SHAPE, width=65_536)
    with pytest.raises(InputError, match=r"take [\d,.]+ GB and 1.0 GB are available; lower model.width"):
        memory.check_memory(wide, SHAPE, 1)
    with pytest.raises(InputError, match=r"lower .*training.batch_size"):
        memory.check_memory(create_model("resnet18", 10, (32, 32, 3)), (32, 32, 3), 50_000)
    with pytest.raises(InputError, match="of 4000 networks"):
        memory.check_memory(create_model("resnet8", 10, SHAPE), SHAPE, 64, models=4000)
