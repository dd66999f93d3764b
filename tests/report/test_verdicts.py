"""The one rule by which the report says that more is left than in a model that never saw the class."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osp_jax.report.formats import NOTHING
from osp_jax.report.verdicts import LESS, MORE, SAME, SAME_EFFORT, SAME_SHARE, UNTOLD, excess, in_words, verdict


def found(value, ends=None, leak="high", **more):
    return {"value": value, "ci95": ends, "n": 1, "leak": leak, **more}


def never(leak="low"):
    return found(None, leak=leak, never=200)


def against(value, other, low, high, leak="high"):
    """Two measures, the first with the interval of its difference to the second."""
    difference = {"value": value - other, "ci95": [low, high], "paired": True}
    wide = [0.0, 1.0]
    return found(value, wide, leak, difference=difference), found(other, wide, leak)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (against(0.505, 0.5, -0.01, 0.02), SAME),
        (against(0.512, 0.5, 0.005, 0.019), SAME),  # certain, and too small to matter
        (against(0.512, 0.5, 0.005, 0.021), MORE),
        (against(0.512, 0.5, 0.005, 0.021, "low"), LESS),
        (against(0.47, 0.5, -0.04, -0.02), LESS),
        (against(0.47, 0.5, -0.04, -0.02, "low"), MORE),
        (against(0.5, 0.5, -0.03, 0.03), UNTOLD),  # no difference found, and none ruled out
        (against(0.5, 0.5, -0.001, 0.001), SAME),
    ],
)
def test_the_rule_for_the_interval_of_a_difference(pair, message):
    assert verdict("membership", *pair) == message


@pytest.mark.parametrize(
    ("mine", "retrained", "message"),
    [
        (found(0.7, [0.65, 0.75]), found(0.5, [0.45, 0.55]), MORE),
        (found(0.6, [0.54, 0.66]), found(0.5, [0.44, 0.56]), MORE),  # the intervals overlap: no test at 5%
        (found(0.55, [0.5, 0.6]), found(0.5, [0.45, 0.55]), UNTOLD),
        (found(0.7, [0.45, 0.95]), found(0.5, [0.45, 0.55]), UNTOLD),
        (found(0.501, [0.49, 0.512]), found(0.5, [0.49, 0.51]), SAME),
        (found(0.3, [0.25, 0.35]), found(0.5, [0.45, 0.55]), LESS),
        (found(0.3, [0.25, 0.35], "low"), found(0.5, [0.45, 0.55], "low"), MORE),
        # Without an interval of the difference nothing can be tested.
        (found(0.5 + SAME_SHARE), found(0.5), UNTOLD),
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
def test_the_rule_for_evaluations_without_differences(mine, retrained, message):
    assert verdict("membership", mine, retrained) == message


@pytest.mark.parametrize(
    ("mine", "retrained", "message"),
    [
        (found(50 * (1 - SAME_EFFORT), leak="low"), found(50, leak="low"), UNTOLD),
        (found(39, leak="low"), found(50, leak="low"), MORE),
        (found(61, leak="low"), found(50, leak="low"), LESS),
        (found(0, leak="low"), found(0, leak="low"), UNTOLD),
        (never(), never(), SAME),
        (never(), found(150, leak="low"), LESS),
        (found(199, leak="low"), never(), MORE),
        (never(), found(None, leak="low"), NOTHING),
        (found(40, [30, 50], "low"), found(60, [45, 75], "low"), MORE),
        (found(40, [20, 60], "low"), found(60, [45, 75], "low"), UNTOLD),
        (found(59, [57, 61], "low"), found(60, [55, 65], "low"), SAME),  # within a fifth of 60
    ],
)
def test_the_rule_for_relearning(mine, retrained, message):
    assert verdict("relearning", mine, retrained) == message


values = st.floats(0, 1)
halves = st.one_of(st.none(), st.floats(0, 0.5))


@given(values, values, halves, halves, st.sampled_from(["high", "low"]))
def test_exchanging_the_models_turns_the_verdict_round(one, other, half, other_half, leak):
    turned = {MORE: LESS, LESS: MORE, SAME: SAME, UNTOLD: UNTOLD}
    ends = [None if h is None else [v - h, v + h] for v, h in ((one, half), (other, other_half))]
    one, other = found(one, ends[0], leak), found(other, ends[1], leak)
    assert verdict("probes", one, other) == turned[verdict("probes", other, one)]


@given(values, values, st.floats(0, 0.5), st.floats(0, 0.5))
def test_without_differences_two_intervals_are_of_independent_values(one, other, half, other_half):
    mine, retrained = found(one, [one - half, one + half]), found(other, [other - other_half, other + other_half])
    gap, width = abs(one - other), math.hypot(half, other_half)
    if abs(gap + width - SAME_SHARE) > 1e-6 and abs(gap - width) > 1e-6:
        expected = SAME if gap + width < SAME_SHARE else UNTOLD if gap < width else MORE if one > other else LESS
        assert verdict("recovery", mine, retrained) == expected


def test_a_verdict_that_tells_nothing_says_from_how_many_images():
    assert in_words(UNTOLD, {"n": 1500}) == "not told apart, n = 1,500"
    assert in_words(UNTOLD, {"n": None}) == UNTOLD
    assert in_words(MORE, {"n": 1500}) == MORE


def test_the_excess_is_in_the_measures_unit_or_of_the_effort():
    assert excess("membership", found(0.7), found(0.5)) == pytest.approx(0.2)
    assert excess("relearning", found(10, leak="low"), found(40, leak="low")) == pytest.approx(0.75)
    assert excess("relearning", found(10, leak="low"), never()) == math.inf
