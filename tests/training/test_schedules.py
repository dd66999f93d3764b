"""Learning rates and penalty factors over time."""

import numpy as np
import pytest

from osp_jax.runtime.errors import InputError
from osp_jax.training.schedules import SCHEDULES, learning_rate, piecewise


def test_one_cycle_starts_low_peaks_after_the_warm_up_and_ends_at_nearly_nothing():
    rate = learning_rate("one-cycle", 0.5, 100, 0.3)
    np.testing.assert_allclose([rate(0), rate(30), rate(100)], [0.5 / 25, 0.5, 0.5 / 250_000], rtol=1e-3)


def test_one_cycle_follows_a_cosine_both_ways():
    rate = learning_rate("one-cycle", 0.5, 100, 0.4)
    np.testing.assert_allclose(rate(20), (0.5 / 25 + 0.5) / 2, rtol=1e-5)
    np.testing.assert_allclose(rate(70), 0.25, rtol=1e-3)


def test_cosine_rises_in_a_line_and_falls_along_a_cosine():
    rate = learning_rate("cosine", 0.5, 100, 0.2)
    np.testing.assert_allclose([rate(0), rate(10), rate(20)], [0, 0.25, 0.5], atol=1e-7)
    np.testing.assert_allclose([rate(40), rate(60), rate(100)], [0.25 * (1 + np.sqrt(0.5)), 0.25, 0], atol=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_rate_rises_to_its_peak_once_and_then_falls(name):
    rates = np.array([learning_rate(name, 0.1, 50, 0.2)(i) for i in range(51)])
    assert rates.argmax() == 10
    assert (np.diff(rates[:11]) > 0).all()
    assert (np.diff(rates[10:]) < 0).all()


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_run_of_few_steps_has_finite_rates_up_to_the_peak(name):
    for steps in range(1, 6):
        rates = np.array([learning_rate(name, 0.1, steps, 0.2)(i) for i in range(steps + 1)])
        assert np.isfinite(rates).all()
        assert 0 < rates.max() <= 0.1 + 1e-7


def test_an_unknown_schedule_is_refused():
    with pytest.raises(InputError, match=r"unknown training.schedule 'linear'; choose one of: one-cycle, cosine"):
        learning_rate("linear", 0.1, 10, 0.2)


@pytest.mark.parametrize("warmup", [0, 1, -0.1, 1.5, float("nan")])
def test_a_warm_up_outside_the_run_is_refused(warmup):
    with pytest.raises(InputError, match=r"training\.warmup"):
        learning_rate("one-cycle", 0.1, 10, warmup)


def test_the_penalty_factor_is_that_of_the_last_epoch_begun():
    schedule = ((2, 0.1), (0, 3.0), (5, 0))
    assert [piecewise(schedule, epoch) for epoch in (0, 1, 2, 4, 5, 99)] == [3.0, 3.0, 0.1, 0.1, 0.0, 0.0]


def test_the_penalty_factor_is_one_before_the_first_entry():
    assert piecewise(((3, 0.5),), 2) == 1.0
    assert piecewise((), 7) == 1.0


@pytest.mark.parametrize("schedule", [5, ((0,),), "ab", ((0, "much"),), ((0, 1.0), 3), (("soon", 1.0),)])
def test_a_penalty_schedule_that_is_no_list_of_pairs_is_refused(schedule):
    with pytest.raises(InputError, match=r"orthogonality.schedule is .*; give pairs"):
        piecewise(schedule, 0)
