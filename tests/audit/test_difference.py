"""Differences from the retrained model: paired where possible, with intervals of the stated coverage."""

import json

import numpy as np
import pytest

from osp_jax.audit.difference import difference, independent_interval, with_differences
from osp_jax.audit.measure import PARTS, auc, balanced, mean, measure, share


def covered(draw, truth: float, times: int = 400) -> float:
    """How often the interval of the difference of two measures covers its true value."""
    hits = 0
    for _ in range(times):
        low, high = difference(*draw())["ci95"]
        hits += low <= truth <= high
    return hits / times


def test_paired_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)

    def correlated(n, shift):
        common = rng.normal(size=n)
        return common + rng.normal(0, 0.5, n) + shift, common + rng.normal(0, 0.5, n)

    def shares():
        a, b = correlated(80, 0.0)
        return share(a > 0), share(b > 0)

    def means():
        a, b = correlated(60, 0.3)
        return mean(a), mean(b)

    def areas():
        (a, b), (c, d) = correlated(60, 1.0), correlated(50, 0.0)
        return auc(a, c), auc(b + 1.0, d)

    def both():
        (a, b), (c, d) = correlated(60, 0.0), correlated(50, 0.0)
        return balanced(a > 0, c < 0), balanced(b > 0, d < 0)

    for draw, truth in ((shares, 0.0), (means, 0.3), (areas, 0.0), (both, 0.0)):
        assert 0.92 <= covered(draw, truth) <= 0.985, draw.__name__


def test_the_same_images_tell_more_than_two_intervals():
    rng = np.random.default_rng(0)
    common = rng.normal(size=200)
    mine, its = mean(common + 0.1 + rng.normal(0, 0.05, 200)), mean(common)
    found = difference(mine, its)
    assert found["paired"]
    assert found["ci95"][0] > 0
    low, high = independent_interval(mine, its)
    assert low < 0 < high


def test_shares_that_agree_on_every_image_leave_open_what_so_few_images_cannot_tell():
    for n, half in ((10, 0.17), (1000, 0.002)):
        low, high = difference(share(np.zeros(n, bool)), share(np.zeros(n, bool)))["ci95"]
        assert -low == pytest.approx(high)
        assert high == pytest.approx(half, rel=0.1)


def test_other_images_are_compared_by_the_two_intervals():
    mine, its = share(np.arange(50) < 40), share(np.arange(80) < 40)
    found = difference(mine, its)
    assert not found["paired"]
    assert found["ci95"] == pytest.approx([0.1357, 0.4317], abs=2e-2)  # Newcombe's interval of 40/50 - 40/80
    assert difference(measure(0.3), measure(0.2)) == {"value": pytest.approx(0.1), "ci95": None, "paired": False}
    assert difference(measure(None), measure(0.2)) is None
    assert difference(measure(0.2), None) is None


def test_every_model_is_compared_with_the_retrained_one_and_all_is_json():
    hits = np.array([True, False] * 10)
    models = {
        "original": {"recovery": {"a": share(hits), "of_it_alone": share(hits)}},
        "retrained": {"recovery": {"a": share(~hits)}},
    }
    found = json.loads(json.dumps(with_differences(models), allow_nan=False))
    assert found["original"]["recovery"]["a"]["difference"]["value"] == 0
    assert "difference" not in found["original"]["recovery"]["of_it_alone"]
    assert "difference" not in found["retrained"]["recovery"]["a"]
    assert PARTS not in found["retrained"]["recovery"]["a"]
    alone = with_differences({"original": models["original"]})
    assert alone["original"]["recovery"]["a"].keys() == {"value", "ci95", "n", "leak"}
