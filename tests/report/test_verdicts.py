"""The one rule by which the report says that more is left than in a model that never saw the class."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osp_jax.report.formats import NOTHING
from osp_jax.report.verdicts import LESS, MORE, SAME, SAME_EFFORT, SAME_SHARE, excess, verdict


def found(value, ends=None, leak="high", **more):
    return {"value": value, "ci95": ends, "n": 1, "leak": leak, **more}


def never(leak="low"):
    return found(None, leak=leak, never=200)


@pytest.mark.parametrize(
    ("mine", "retrained", "said"),
    [
        (found(0.7, [0.65, 0.75]), found(0.5, [0.45, 0.55]), MORE),
        (found(0.7, [0.55, 0.85]), found(0.5, [0.45, 0.55]), SAME),  # they touch
        (found(0.3, [0.25, 0.35]), found(0.5, [0.45, 0.55]), LESS),
        (found(0.3, [0.25, 0.35], "low"), found(0.5, [0.45, 0.55], "low"), MORE),
        (found(0.51, [0.505, 0.515]), found(0.5, [0.495, 0.503]), MORE),  # intervals come before the tolerance
        (found(0.5 + SAME_SHARE), found(0.5), SAME),
        (found(0.5 + SAME_SHARE + 1e-6), found(0.5), MORE),
        (found(0.5 - SAME_SHARE - 1e-6), found(0.5), LESS),
        (found(0.6, [0.4, 0.8]), found(0.5), MORE),  # only one has an interval
        (found(0.6, [0.4, None]), found(0.5, [0.4, 0.6]), MORE),
        (found(0.9, leak=None), found(0.1, leak=None), NOTHING),
        (found(None), found(0.5), NOTHING),
        (found(math.nan), found(0.5), NOTHING),
        (found(0.5), None, NOTHING),
        (None, found(0.5), NOTHING),
    ],
)
def test_the_rule_for_shares(mine, retrained, said):
    assert verdict("membership", mine, retrained) == said


@pytest.mark.parametrize(
    ("mine", "retrained", "said"),
    [
        (found(50 * (1 - SAME_EFFORT), leak="low"), found(50, leak="low"), SAME),
        (found(39, leak="low"), found(50, leak="low"), MORE),
        (found(61, leak="low"), found(50, leak="low"), LESS),
        (found(0, leak="low"), found(0, leak="low"), SAME),
        (never(), never(), SAME),
        (never(), found(150, leak="low"), LESS),
        (found(199, leak="low"), never(), MORE),
        (never(), found(None, leak="low"), NOTHING),
        (found(40, [30, 50], "low"), found(60, [45, 75], "low"), SAME),
    ],
)
def test_the_rule_for_relearning(mine, retrained, said):
    assert verdict("relearning", mine, retrained) == said


values = st.floats(0, 1)


@given(values, values, st.sampled_from(["high", "low"]))
def test_exchanging_the_models_turns_the_verdict_round(one, other, leak):
    turned = {MORE: LESS, LESS: MORE, SAME: SAME}
    one, other = found(one, leak=leak), found(other, leak=leak)
    assert verdict("probes", one, other) == turned[verdict("probes", other, one)]


@given(values, values, st.floats(0, 0.5), st.floats(0, 0.5))
def test_overlapping_intervals_are_never_told_apart(one, other, half, other_half):
    mine, retrained = found(one, [one - half, one + half]), found(other, [other - other_half, other + other_half])
    overlap = max(one - half, other - other_half) <= min(one + half, other + other_half)
    assert (verdict("recovery", mine, retrained) == SAME) == overlap


def test_the_excess_is_in_the_measures_unit_or_of_the_effort():
    assert excess("membership", found(0.7), found(0.5)) == pytest.approx(0.2)
    assert excess("relearning", found(10, leak="low"), found(40, leak="low")) == pytest.approx(0.75)
    assert excess("relearning", found(10, leak="low"), never()) == math.inf
