"""The tables of comparisons on texts, from figures given by hand."""

import pytest

from benchmarks.text_tables import EDITS, HEADER, comparison, edits, original_accuracy, rows


def cell(method: str, forget: float, retain: float, probe: float) -> dict:
    inside = {"linear_probe": {"value": probe, "n": 40}}
    inside |= {f"new_head_{side}_accuracy": {"value": 0.5, "n": n} for side, n in (("forget", 10), ("retain", 30))}
    return {
        "seed": 0,
        "request": "a, b",
        "kind": "2 classes",
        "method": method,
        "accuracy": {"test_forget_accuracy": forget, "test_retain_accuracy": retain},
        "measures": {"inside": inside},
    }


RESULTS = {
    "dataset": {"variant": "few texts", "num_test": 40},
    "model": {"parameters": 1000},
    "config": {"original": {"training": {"epochs": 3}, "data": {"validation": 0.1}}, "tuning": {"trials": 2}},
    "methods": ["retrain", "steu"],
    "tuning": {},
    "cells": [cell("original", 0.9, 0.5, 0.8), cell("retrain", 0.0, 0.6, 0.5), cell("steu", 0.1, 0.4, 0.7)],
}


def test_rows_have_accuracies_and_gaps_to_the_retrained_network():
    found = {row[0]: dict(zip(HEADER, row, strict=True)) for row in rows(RESULTS)}
    assert list(found) == ["original", "retrained", "steu"]
    assert found["steu"]["Forgotten, test"] == "10.0%"
    assert found["steu"]["Linear probe"] == "+20.0"
    assert found["retrained"]["Linear probe"] == "\N{EN DASH}"


def test_the_accuracy_of_the_original_is_over_all_test_texts():
    assert original_accuracy(RESULTS) == (pytest.approx((9 + 15) / 40), 40)
    words = comparison(RESULTS, {"test_accuracy": 0.625})
    assert "60.0% (40 of 40 test texts)" in words
    assert "62.5%, a difference of -2.5 points" in words


def test_edits_are_means_over_the_requests():
    values = dict.fromkeys(EDITS, 0.5)
    given = [
        {"request": request, "model": model, **values, "forget_f1": value, "changed": 10.0}
        for request, value in (("a", 0.1), ("b", 0.3))
        for model in ("original", "steu")
    ]
    lines = edits(given).splitlines()
    assert len(lines) == 4
    assert "| 0.200 |" in lines[3]
    assert lines[2].endswith("| \N{EN DASH} |")
    assert lines[3].endswith("| 10 |")
