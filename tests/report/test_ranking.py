"""The printed rows of a comparison, and the table of targets: figures by hand, and what is missing says so."""

import pytest

from osp_jax.methods import METHODS
from osp_jax.report.deviations import DEVIATIONS
from osp_jax.report.formats import NOTHING
from osp_jax.report.ranking import HEADER, ranked_rows
from osp_jax.report.targets import NOT_MEASURED, Network, target_rows


def measured(auc, probe, head, steps):
    again = {"value": None, "never": -steps} if steps < 0 else {"value": steps}
    return {
        "membership": {"logistic_auc": {"value": auc}},
        "inside": {"linear_probe": {"value": probe}, "new_head_forget_accuracy": {"value": head}},
        "relearning": {"steps_to_half": again},
    }


def cell(method, request, forget, retain, measures, warm=None):
    return {
        "seed": 0,
        "request": request,
        "kind": "single",
        "method": method,
        "accuracy": {"test_forget_accuracy": forget, "test_retain_accuracy": retain},
        "measures": measures,
        "seconds": {"cold": None, "warm": warm},
        "seen": {"1": 50, "2": 50},
    }


RESULTS = {
    "methods": ["retrain", "osp", "scrub"],
    "tuning": {"scrub": [{"cold": 9.0, "options": {}}]},
    "cells": [
        cell("original", "cat", 0.9, 0.9, measured(0.6, 0.9, 0.9, 0)),
        cell("original", "dog", 0.8, 0.9, measured(0.6, 0.9, 0.9, 0)),
        cell("retrain", "cat", 0.0, 0.92, measured(0.5, 0.8, 0.6, -20)),
        cell("retrain", "dog", 0.0, 0.92, measured(0.5, 0.8, 0.6, 10)),
        cell("osp", "cat", 0.3, 0.89, measured(0.6, 0.9, 0.9, 1), 0.002),
        cell("osp", "dog", 0.5, 0.91, measured(0.6, 0.9, 0.9, 1), 0.004),
        cell("scrub", "cat", 0.0, 0.90, measured(0.5, 0.82, 0.7, 10), 3.0),
        cell("scrub", "dog", 0.0, 0.88, measured(0.5, 0.82, 0.7, -20), 5.0),
    ],
}


def test_methods_stand_in_the_order_of_their_average_gap_below_original_and_retrained():
    rows = ranked_rows(RESULTS, {"osp": 0.0005})
    assert [row[0] for row in rows] == ["original", "retrain", "scrub", "osp"]
    scrub, osp = (dict(zip(HEADER, row, strict=True)) for row in rows[2:])
    assert osp["Forgotten"] == "40.0% (50.0%)"
    assert osp["Others"] == "+0.0 (-1.0)"
    assert osp["Others, to retrained"] == "-2.0"
    assert (osp["Membership"], osp["Linear probe"], osp["New head"]) == ("+10.0", "+10.0", "+30.0")
    assert osp["Average gap"] == f"{(40 + 2 + 10 + 10 + 30) / 5:.1f}"
    assert osp["Relearning"] == f"{(1 / 20 + 1 / 10) / 2:.2f}"
    assert (osp["Warm"], osp["Prepared"], osp["Images"]) == ("3 ms", "500 µs", "100")
    assert scrub["Relearning"] == "0.75"  # half as late on the cat, not again within the steps on the dog
    assert (scrub["Cold"], scrub["Prepared"]) == ("9 s", NOTHING)


def test_the_best_rows_can_be_shown_alone_and_the_whole_table_says_what_differs_from_the_papers():
    assert [row[0] for row in ranked_rows(RESULTS, {})][:3] == ["original", "retrain", "scrub"]
    assert ranked_rows(RESULTS, {}, differences=True)[2][-1] == DEVIATIONS["scrub"]


def test_every_method_has_its_line():
    assert set(DEVIATIONS) == set(METHODS)


NETWORK = Network("sweep", "comparison", "audit", "lira", "exact", "prepared", -0.5, 2.0, 2.0)
SWEEP = {
    "options": {"scrub": {}},
    "classes": [
        {
            "original": {"retain_accuracy": 0.9},
            "scrub": {"forget_accuracy": forget, "retain_accuracy": retain, "warm_seconds": 1.5},
        }
        for forget, retain in ((0.0, 0.905), (0.002, 0.89))
    ],
}


def targets(results):
    return {name: (words, met, file) for name, _, words, met, file in target_rows(NETWORK, results, "scrub")}


def test_what_has_no_results_is_not_measured():
    assert {words for words, _, _ in targets({}).values()} == {NOT_MEASURED}


def test_each_target_has_its_figure_its_verdict_and_its_file():
    row = {"method": "scrub", "warm_seconds_prepared": 0.0004, "warm_seconds": 2.5, "images_at_request": 0}
    prepared = {"rows": [row, {"method": "osp", "error": "none"}]}
    found = targets({"sweep": SWEEP, "comparison": RESULTS, "prepared": prepared})
    assert found["Forgotten, mean / worst class"] == ("0.10% / 0.20%", "met", "sweep")
    assert found["Others against the original, mean / worst request"] == ("-0.25 / -1.00", "missed", "sweep")
    assert found["Others against retrained, mean"] == ("-3.00 points", "missed", "comparison")
    assert found["Linear probe, gap to retrained"] == ("+2.0 points", "met", "comparison")
    assert found["New head, gap to retrained"] == ("+10.0 points", "missed", "comparison")
    assert found["Relearning, steps against retrained"] == ("0.75", "missed", "comparison")
    assert found["Warm request, prepared"] == ("400 µs", "met", "prepared")
    assert found["Warm request, not prepared, from images"] == ("1.5 s", "met", "sweep")
    assert found["Warm request, not prepared, from cached inputs"] == ("2.5 s", "missed", "prepared")


@pytest.mark.parametrize(("low", "verdict"), [(-0.1, "met"), (0.01, "missed")])
def test_an_exact_head_has_no_gap_where_every_interval_holds_zero(low, verdict):
    gaps = {"probe": {"value": 0.0, "ci95": [-0.1, 0.1]}, "head": {"value": 0.05, "ci95": [low, 0.1]}}
    found = targets({"exact": {"gaps": gaps, "u_lira_auc": {"value": 0.51}}})
    assert found["Exact head, every gap"][1] == verdict
    assert found["Exact head, U-LiRA"] == ("0.510", "met", "exact")
