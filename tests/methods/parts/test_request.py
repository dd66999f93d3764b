"""A request as the command runs it: the timing loop's result, and the record of the change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from osp_jax.masks import class_difference
from osp_jax.methods.osp import Osp, scores_and_gains
from osp_jax.methods.parts.request import describe_change, images_seen, timed_request
from osp_jax.trees import edited, leaves_by_path
from tests.methods.conftest import request_of

STREAM = "stage3_block1/bn_shortcut"


def timed(resnet8, calls, **limits):
    class Counted(Osp):
        def unlearn(self, model, forget, **given):
            calls.append(given)
            return super().unlearn(model, forget, **given)

    return timed_request(Counted(), resnet8.model, (1,), resnet8.statistics, jax.random.key(0), **limits)


def with_leaves(model, changes):
    return model.replace(variables=edited(model.variables, changes))


def test_a_request_runs_its_method_once(resnet8):
    outcome = timed(resnet8, calls := [])
    assert len(calls) == 1
    assert outcome.cold > 0
    assert outcome.warm_median is None
    assert outcome.warm_p95 is None
    jax.tree.map(np.testing.assert_array_equal, outcome.model.variables, request_of("osp", resnet8, (1,)).variables)


def test_what_takes_longer_than_the_limit_is_not_repeated(resnet8):
    assert timed(resnet8, calls := [], warm_calls=5, limit=0.0).warm_median is None
    assert len(calls) == 1


def test_a_timed_request_gives_the_method_s_own_result_after_one_cold_and_one_warm_call(resnet8):
    outcome = timed(resnet8, calls := [], warm_calls=1)
    assert len(calls) == 2
    assert all(call["data"] is None for call in calls)
    assert min(outcome.cold, outcome.warm_median) > 0
    assert outcome.warm_p95 >= outcome.warm_median
    jax.tree.map(np.testing.assert_array_equal, outcome.model.variables, request_of("osp", resnet8, (1,)).variables)


@pytest.mark.parametrize("layers", ["last", "all"])
def test_the_record_has_the_scores_and_gains_of_the_request(resnet8, layers):
    new = request_of("osp", resnet8, (1,), layers=layers)
    record = describe_change(resnet8.model, new, (1,), resnet8.statistics)
    scores, gains = scores_and_gains(resnet8.statistics, (1,), Osp(layers=layers))
    assert record["channels"].keys() == record["masked_channels"].keys() == gains.keys()
    for name, gain in gains.items():
        np.testing.assert_allclose(record["channels"][name]["factor"], gain, rtol=1e-6)
        np.testing.assert_allclose(record["channels"][name]["score"], scores[name], rtol=1e-6)
        assert record["masked_channels"][name] == round(0.25 * len(gain))


def test_a_kernel_without_a_norm_shows_its_factors_too(allcnn):
    record = describe_change(allcnn.model, request_of("osp", allcnn, (1,)), (1,), allcnn.statistics)
    _, gains = scores_and_gains(allcnn.statistics, (1,), Osp())
    np.testing.assert_allclose(record["channels"]["conv8"]["factor"], gains["conv8"], rtol=1e-6)
    assert record["masked_channels"] == {"conv8": 2}


def test_parameters_changed_counts_single_numbers(resnet8):
    new = request_of("osp", resnet8, (1,))
    # 4 of 16 channels, in scale and bias, of the block's norm and of its shortcut's.
    assert describe_change(resnet8.model, new, (1,), resnet8.statistics)["parameters_changed"] == 4 * 2 * 2


def test_a_change_in_the_head_masks_no_channel(resnet8):
    new = request_of("logit-mask", resnet8, (1,))
    record = describe_change(resnet8.model, new, (1,), resnet8.statistics)
    assert record == {"masked_channels": {}, "parameters_changed": 1, "channels": {}}


def test_nothing_changed_is_nothing_recorded(resnet8):
    same = resnet8.model.replace(variables=jax.tree.map(jnp.copy, resnet8.model.variables))
    record = describe_change(resnet8.model, same, (1,), resnet8.statistics)
    assert record == {"masked_channels": {}, "parameters_changed": 0, "channels": {}}


def test_a_factor_of_0_and_a_parameter_of_0_are_distinguished(resnet8):
    """A gain of 0 shows as factor 0; a scale that was 0 before says nothing about its gain."""
    gains, leaves = jnp.ones(16).at[1:3].set([0, 0.5]), leaves_by_path(resnet8.model.variables)
    stream = {factor.path: leaves[factor.path] for factor in resnet8.statistics.gates.last.writers}
    assert len(stream) == 4  # scale and bias of the block's norm and of its shortcut's
    stream[f"params/{STREAM}/scale"] = stream[f"params/{STREAM}/scale"].at[0].set(0)
    before, after = (
        with_leaves(resnet8.model, {path: leaf * factor for path, leaf in stream.items()}) for factor in (1, gains)
    )
    record = describe_change(before, after, (1,), resnet8.statistics)
    assert record["channels"][STREAM]["factor"] == [1, 0, 0.5] + 13 * [1]
    assert record["masked_channels"] == {STREAM: 2}
    assert record["parameters_changed"] == 2 * 4
    expected = class_difference(resnet8.statistics.layers[STREAM], jnp.eye(5)[1])
    np.testing.assert_allclose(record["channels"][STREAM]["score"], expected, rtol=1e-6)


def test_a_norm_that_was_trained_further_shows_no_factors(resnet8):
    variables = jax.tree.map(lambda leaf: leaf + 0.01, resnet8.model.variables)
    trained = resnet8.model.replace(variables=variables)
    record = describe_change(resnet8.model, trained, (1,), resnet8.statistics)
    assert record["channels"] == record["masked_channels"] == {}
    assert record["parameters_changed"] == sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def test_images_seen_are_counted_by_class(resnet8):
    assert images_seen(resnet8.statistics) == {str(c): 4 for c in range(5)}
