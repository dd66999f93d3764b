"""The tables of a federated study from figures given by hand, and the figure of who holds what."""

import re

import pytest

from osp_jax.report.federated import (
    accuracy_table,
    attack_table,
    cost_table,
    federated_html,
    federated_markdown,
    holdings_figure,
    summary_table,
)
from osp_jax.report.formats import NOTHING

TRAFFIC = {"down": 2_000_000, "up": 1_000}
PROVENANCE = {
    "command": "python -m experiments.federated",
    "commit": "0123456789abcdef",
    "versions": {"jax": "1", "flax": "2", "optax": "3"},
    "python": "3.11",
    "device": "cpu",
}


def cell(method, after, *, seed=0, scenario="label-flip", rounds=1, **more):
    names = "forgotten", "others", "attack", "distance", "distance_others"
    found = [dict(zip(names, figures, strict=True)) for figures in after]
    about = {"split": "iid", "seed": seed, "scenario": scenario, "method": method, "rounds": rounds}
    return {**about, "after": found, "traffic": TRAFFIC, **more}


def results(cells):
    attack = {"kind": "label-flip", "first": 0, "second": 1, "target": 0, "side": 3}
    request = {"level": "client", "classes": [], "clients": [1], "images": 30, "of": 100}
    training = {"rounds": 4, "optimiser": "sgd", "learning_rate": 0.1, "rate": "cosine", "batch_size": 8}
    fcot = {"steps": 0, "epochs": 1, "fusion_steps": 2, "fusion_epochs": 1, "fusion_start": "reference"}
    return {
        "dataset": {"variant": "few <images>", "class_names": ["a", "b|c"], "num_test": 10},
        "model": {"name": "net", "parameters": 1000},
        "config": {
            "scenarios": ["label-flip"],
            "division": {"clients": 2, "alpha": 0.5, "classes": 2},
            "seeds": [0, 1],
            "training": training | {"steps": 0, "epochs": 3},
            "fcot": fcot | {"penalty": "so", "penalty_weight": 0.1, "align": 0.01},
            "recovery": {"rounds": 1},
        },
        "held": {"iid": [[40, 30], [0, 30]]},
        "requests": {"iid": {"label-flip": request | {"attack": attack, "poisoned": 9}}},
        "cells": cells,
        "provenance": PROVENANCE,
    }


METHOD = {"settings": {"fraction": 0.1}, "note": "its note"}
CELLS = [
    cell("trained", [(0.6, 0.9, 0.5, 0.4, 0.1)], rounds=4),
    cell("retrained", [(0.1, 0.9, 0.0, 0.0, 0.0)], rounds=4),
    cell("fedup", [(0.0, 0.2, 0.0, 0.5, 0.5), (0.2, 0.8, 0.1, 0.1, 0.1)], **METHOD),
    cell("fedup", [(0.2, 0.4, 0.0, 0.5, 0.5), (0.4, 0.6, 0.3, 0.2, 0.1)], seed=1, **METHOD),
    {**cell("not", [], **METHOD), "error": "a | reason"},
]


def test_rows_are_means_over_seeds_at_once_and_after_the_rounds():
    header, *rows = accuracy_table(results(CELLS), "iid", "label-flip")
    rows = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    assert rows["fedup"] == {
        "Model": "fedup",
        "Poisoned images, at once": "10.0%",
        "Others, at once": "30.0%",
        "Poisoned images": "30.0%",
        "Others": "70.0%",
        "Attacked test images": "20.0%",
    }
    assert rows["trained on all"]["Poisoned images, at once"] == NOTHING
    assert rows["not"]["Others"] == NOTHING


def test_rows_have_the_distance_the_rounds_and_what_was_sent():
    rows = {row[0]: row[1:] for row in cost_table(results(CELLS), "iid", "label-flip")}
    assert rows["fedup"] == ["0.150", "0.100", "1", "2.0 MB", "1.0 kB"]
    assert rows["not"][2] == "refused"


def test_the_summary_has_what_leaves_and_the_others_after_the_rounds():
    header, row = summary_table(results(CELLS))
    assert header == ["Clients", "Who leaves", "trained on all", "retrained without it", "fedup", "not"]
    assert row[2:] == ["60.0% / 90.0%", "10.0% / 90.0%", "30.0% / 70.0%", NOTHING]


def test_the_success_of_attacks_has_a_column_for_each_model():
    header, row = attack_table(results(CELLS))
    assert header[2:] == ["trained on all", "retrained without it", "fedup", "not"]
    assert row[2:] == ["50.0%", "0.0%", "20.0%", NOTHING]
    assert attack_table(results([cell("trained", [(0.6, 0.9, None, 0.4, 0.1)], scenario="class")])) == []


def test_the_pages_say_who_left_and_why_a_method_refused():
    given = results(CELLS)
    text, html = federated_markdown(given), federated_html(given)
    for words in ("Client 1, with 30 of 100 training images", "on 9 of them", "its note", "2 seeds"):
        assert words in text
        assert words in html
    assert "not: a \\| reason." in text
    assert "few &lt;images&gt;" in html
    assert "from 30 to 70 training images of 1 to 2 classes" in text


@pytest.mark.parametrize("clients", [2, 40])
def test_the_figure_has_a_dot_for_each_client_and_class_that_it_holds(clients):
    counts = [[40, 30], [0, 30]] * (clients // 2)
    drawn = holdings_figure(counts, ["a", "b"], "held")
    (dots,) = re.findall(r'id="held-PathCollection_1">(.*?)</g>', drawn, flags=re.DOTALL)
    assert len(re.findall(r"<(?:use|path) [^>]*fill: var\(--after", dots)) == 3 * clients // 2
    assert drawn == holdings_figure(counts, ["a", "b"], "held")
    assert "the largest dot is 40" in drawn
