"""A whole audit: the untouched model is caught on every question, the retrained one agrees with itself."""

import json

import pytest

from osp_jax.audit import recovery, relearn
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
    subjects = {"original": controls.original, "unlearned": controls.original, "retrained": controls.retrained}
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


def test_figures_have_their_points(found):
    for model in found.values():
        curves = model["curves"]
        assert len(curves["map"]["x"]) == len(curves["map"]["y"]) == len(curves["map"]["forgotten"])
        assert any(curves["map"]["forgotten"])
        assert list(curves["cka"]) == ["original", "retrained"]
        assert "loss" in curves["roc"]
        assert curves["relearning"]["all_layers_50_images"]["steps"][0] == 0


def test_the_settings_of_a_level_are_json():
    json.dumps(settings_of(LEVEL))
