"""Values and intervals, compared with other ways to compute them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import roc_auc_score

from osp_jax.audit.measure import auc, balanced, bootstrap, mean, measure, never, no_value, roc_points, share, wilson

scores = arrays(np.float64, st.integers(2, 30), elements=st.integers(-5, 5).map(float))


@given(scores, scores)
def test_the_area_is_that_of_scikit_learn_ties_included(members, others):
    truth = np.repeat([1, 0], [len(members), len(others)])
    found = auc(members, others)
    assert found["value"] == pytest.approx(roc_auc_score(truth, np.concatenate([members, others])))
    low, high = found["ci95"]
    assert 0 <= low <= found["value"] <= high <= 1


def test_the_interval_of_an_area_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth = 0.76025  # of two unit normals one apart: Phi(1 / sqrt 2)
    hits = 0
    for _ in range(400):
        low, high = auc(rng.normal(1, 1, 60), rng.normal(0, 1, 50))["ci95"]
        hits += low <= truth <= high
    assert 0.91 < hits / 400 < 0.985


def test_infinite_scores_rank_like_any_other():
    assert auc(np.array([np.inf, 1.0]), np.array([-np.inf, 0.0]))["value"] == 1.0


def test_a_share_has_a_wilson_interval_that_stays_open_at_nothing():
    found = share(np.zeros(10, bool), leak="high")
    assert found["value"] == 0
    assert found["ci95"] == pytest.approx([0, 0.27753], abs=1e-4)
    assert found["n"] == 10
    assert found["leak"] == "high"


def test_nothing_measured_is_none_and_not_a_crash():
    empty = np.zeros(0)
    for found in (share(empty), mean(empty), auc(empty, empty), balanced(empty, empty), measure(float("nan"), (0, 1))):
        assert found["value"] is None
        assert found["ci95"] is None


def test_one_value_has_no_interval():
    found = mean(np.array([0.3]))
    assert (found["value"], found["ci95"], found["n"]) == (0.3, None, 1)


def test_what_has_no_value_says_why():
    assert no_value("so", leak="low") == {"value": None, "ci95": None, "n": None, "leak": "low", "why": "so"}


def test_never_is_a_value():
    assert never(200, leak="low") == {"value": None, "ci95": None, "n": None, "leak": "low", "never": 200}


def test_balanced_accuracy_weighs_both_sides_the_same():
    found = balanced(np.array([True] * 9 + [False]), np.array([True] * 50 + [False] * 50))
    assert found["value"] == pytest.approx(0.7)
    assert found["ci95"][0] < 0.7 < found["ci95"][1]


def test_a_mean_has_the_normal_interval():
    found = mean(np.array([1.0, 2.0, 3.0, 4.0]))
    assert found["value"] == 2.5
    assert found["ci95"] == pytest.approx([2.5 - 1.96 * 1.290994 / 2, 2.5 + 1.96 * 1.290994 / 2], rel=1e-5)


def test_the_bootstrap_agrees_with_the_normal_interval_of_a_mean():
    values = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap(np.mean, values, draws=2000)
    half = 1.96 / 20
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)


def test_a_curve_goes_from_corner_to_corner_and_holds_few_points():
    rng = np.random.default_rng(0)
    curve = roc_points(rng.normal(1, 1, 5000), np.append(rng.normal(0, 1, 5000), -np.inf))
    assert (curve["fpr"][0], curve["tpr"][-1], curve["fpr"][-1]) == (0, 1, 1)
    assert len(curve["fpr"]) <= 200
    assert np.all(np.diff(curve["fpr"]) >= 0)
    assert np.all(np.diff(curve["tpr"]) >= 0)


def test_a_known_wilson_interval():
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)


@given(st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_wilson_interval_contains_the_estimate_and_stays_a_proportion(counts):
    low, high = wilson(*counts)
    assert 0 <= low <= counts[0] / counts[1] <= high <= 1
    assert low < high
