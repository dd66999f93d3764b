"""A whole audit: every question detects the untouched model, and the retrained one equals itself."""

import json

import jax
import numpy as np
import pytest

from osp_jax.audit import recovery, relearn
from osp_jax.audit.membership import NOT_FINITE
from osp_jax.audit.run import Level, audit, pieces, settings_of

LEVEL = Level(
    images=200,
    every_stage=True,
    relearning=relearn.Settings(counts=(50,), layers=("all_layers",), steps=30, learning_rate=0.05),
    recovery=recovery.Settings(steps=10, inversion_images=4, inversion_steps=40),
    training=True,
)


@pytest.fixture(scope="module")
def found(controls):
    model = controls.original.model
    nothing = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), model.variables)
    broken = controls.original._replace(model=model.replace(variables=nothing))
    subjects = {
        "original": controls.original,
        "unlearned": controls.original,
        "broken": broken,
        "retrained": controls.retrained,
    }
    worked = []
    models, seconds = audit(subjects, controls.images, LEVEL, on_work=worked.append)
    assert len(worked) == pieces(subjects)
    assert all(value > 0 for value in seconds.values())
    return models


def test_a_model_that_was_not_changed_is_caught(found):
    left, gone = (found[name]["measures"] for name in ("unlearned", "retrained"))
    assert left["relearning"]["all_layers_50_images_to_95_percent"]["value"] == 0
    assert gone["relearning"]["all_layers_50_images_to_50_percent"].get("value", 1) != 0
    assert left["relearning"]["anamnesis_50_images"]["value"] in (0, None)
    assert left["recovery"]["int8_forget_accuracy"]["value"] > 0.9 > gone["recovery"]["int8_forget_accuracy"]["value"]
    assert left["representation"]["activation_distance_to_original"]["value"] == 0
    assert gone["representation"]["activation_distance_to_original"]["value"] > 0.5
    assert left["accuracy"]["tug_of_war"]["value"] < 0.2
    assert gone["accuracy"]["tug_of_war"]["value"] == 1


def test_every_measure_says_what_it_is_and_all_is_json(found):
    text = json.loads(json.dumps(found, allow_nan=False))
    for model in text.values():
        for question, measures in model["measures"].items():
            assert measures, question
            for name, measure in measures.items():
                assert {"value", "ci95", "n", "leak"} <= measure.keys(), name
                assert measure["leak"] in ("high", "low", None), name
    assert text["original"]["measures"].keys() == text["retrained"]["measures"].keys()


def test_measures_of_images_have_a_paired_difference_to_the_retrained_model(found):
    left, its = found["unlearned"]["measures"], found["retrained"]["measures"]
    for question, name in (
        ("membership", "loss_auc"),
        ("membership", "kodge_svc_non_members"),
        ("probes", "new_head_forget_accuracy"),
        ("recovery", "int8_forget_accuracy"),
        ("representation", "zrf"),
    ):
        mine, other = left[question][name], its[question][name]
        difference = mine["difference"]
        assert difference["paired"], name
        assert difference["value"] == pytest.approx(mine["value"] - other["value"])
        assert difference["ci95"][0] <= difference["value"] <= difference["ci95"][1]
        assert "difference" not in other
    assert left["recovery"]["int8_forget_accuracy"]["difference"]["ci95"][0] > 0.5


def test_a_network_that_answers_nan_is_wrong_everywhere_and_has_measures_without_a_value(found):
    broken, whole = found["broken"]["measures"], found["original"]["measures"]
    for question in ("membership", "probes", "representation"):
        assert broken[question].keys() == whole[question].keys()
        for name, measure in broken[question].items():
            assert (measure["value"], measure["why"]) == (None, NOT_FINITE), name
    assert all(measure["value"] == 0 for measure in broken["recovery"].values())
    assert broken["accuracy"]["average_gap"]["value"] is None


def test_figures_have_their_points(found):
    for model in (found[name] for name in ("original", "unlearned", "retrained")):
        curves = model["curves"]
        assert len(curves["map"]["x"]) == len(curves["map"]["y"]) == len(curves["map"]["forgotten"])
        assert any(curves["map"]["forgotten"])
        assert list(curves["cka"]) == ["original", "retrained"]
        assert "loss" in curves["roc"]
        assert curves["relearning"]["all_layers_50_images"]["steps"][0] == 0


def test_the_settings_of_a_level_are_json():
    json.dumps(settings_of(LEVEL))
