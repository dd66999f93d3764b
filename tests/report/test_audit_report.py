"""What the report says, shows and draws of an audit."""

import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from osp_jax.report import audit_figures, audit_tables, summary
from osp_jax.report.answers import QUESTIONS, answer, answers, asked
from osp_jax.report.formats import DASH, NOTHING
from osp_jax.report.measure_words import gap, label, shown

THAN = "left than in a model that never saw the class"


def evaluation(of_unlearned, of_retrained=None, of_original=None, forget=(3,)):
    """With these values of membership measures, whose interval is 0.01 to either side."""

    def model(values):
        measures = {
            name: {"value": value, "ci95": [value - 0.01, value + 0.01], "n": 100, "leak": "high"}
            for name, value in values.items()
        }
        return {"measures": {"membership": measures}}

    found = {"original": model(of_original or {}), "unlearned": model(of_unlearned), "forget": list(forget)}
    return found | ({"retrained": model(of_retrained)} if of_retrained else {})


@pytest.mark.parametrize(
    ("mine", "short"),
    [
        ({"a_auc": 0.5, "b_auc": 0.5}, f"No: none of 2 measures shows more {THAN}."),
        ({"a_auc": 0.5, "b_auc": 0.6}, f"Partly: 1 of 2 measures shows more {THAN}: “B, AUC”."),
        ({"a_auc": 0.7, "b_auc": 0.6}, f"Yes: all 2 measures show more {THAN}, most of all “A, AUC”."),
    ],
)
def test_the_answer_counts_the_measures_on_which_more_is_left(mine, short):
    caught = {"a_auc": 0.9, "b_auc": 0.9}
    assert answer(evaluation(mine, {"a_auc": 0.5, "b_auc": 0.5}, caught), "membership") == (short, "")


def test_one_measure_is_spoken_of_as_one():
    for value, short in (
        (0.5, f"No: the one measure shows no more {THAN}."),
        (0.8, f"Yes: the one measure shows more {THAN}."),
    ):
        assert answer(evaluation({"a": value}, {"a": 0.5}), "membership").short == short


def test_too_few_images_are_no_answer():
    measures = evaluation({"a": 0.51, "b": 0.8}, {"a": 0.5, "b": 0.5}, {"a": 0.9, "b": 0.9})
    for name in ("a", "b"):
        for model in ("original", "unlearned", "retrained"):
            one = measures[model]["measures"]["membership"][name]
            one["ci95"] = [one["value"] - 0.05, one["value"] + 0.05]
    assert answer(measures, "membership").rest == "1 of 2 had too few images or runs to tell."
    del measures["unlearned"]["measures"]["membership"]["b"]
    message = answer(measures, "membership").short
    assert message.startswith("Not known: the one measure had too few images or runs to tell it from a model")


def test_a_measure_without_a_value_says_why():
    assert shown("a_auc", {"value": None, "why": "the logits are not finite"}) == "no value: the logits are not finite"


def test_less_than_in_the_retrained_model_is_stated():
    assert "1 of 2 shows less left" in answer(evaluation({"a": 0.3, "b": 0.5}, {"a": 0.5, "b": 0.5}), "membership").rest


def test_a_measure_that_the_original_passes_is_stated_to_prove_little():
    two = {"a": 0.5, "b": 0.5}
    one_weak = answer(evaluation(two, two, {"a": 0.5, "b": 0.9}), "membership")
    assert one_weak.rest == "1 of 2 cannot tell even the original from such a model, and so proves little."
    assert "so this proves little" in answer(evaluation(two, two, two), "membership").short


def test_without_a_yardstick_there_is_no_verdict():
    message = answer(evaluation({"loss_auc": 0.5}, None, {"loss_auc": 0.712}), "membership").short
    assert message == "No retrained model to compare with. Loss threshold, AUC: 0.712 before, 0.500 now."
    assert answer(evaluation({}), "membership").short == answer(evaluation({}), "recovery").short == "Not run."


def test_questions_speak_of_one_class_or_of_several():
    for question in QUESTIONS:
        one, two = (" ".join(asked({"forget": forget}, question)) for forget in ([3], [3, 5]))
        assert "{" not in one + two
        assert "classes" not in one
        assert "class " not in two


def test_the_summary_answers_every_question_that_was_run(evaluate):
    message = " ".join(summary(evaluate()))
    for _, question, short in answers(evaluate()):
        assert f"{question} {short}" in message
    assert "not examined" not in message
    assert "Tug-of-war" not in message  # it only describes


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("modified_entropy_auc", "Modified-entropy threshold, AUC"),
        ("u_lira_tpr_at_0_1_percent_fpr", "U-LiRA, found at 0.1% false alarms"),
        ("new_attack_balanced_accuracy", "New attack, balanced accuracy"),
        ("all_layers_1_image_to_50_percent", "All layers, 1 image a class: steps to 50% of the original"),
        ("head_only_50_images", "Last layer only, 50 images a class"),
        ("all_layers_fewest_images_to_95_percent", "All layers: fewest images a class to get to 95% of the original"),
        ("anamnesis_5_images", "Anamnesis index, 5 images a class"),
        ("linear_stage1_block0/norm_2", "Linear probe, stage1_block0/norm_2"),
        ("cka_to_original_head", "Likeness (CKA) to the original, head"),
        ("something_quite_new", "Something quite new"),
    ],
)  # fmt: skip
def test_names_in_words(name, words):
    assert label(name) == words


@given(st.text(st.characters(codec="ascii", categories=["Ll", "Nd", "Pc"]), min_size=1))
def test_any_name_has_words(name):
    assert isinstance(label(name), str)


def test_cells():
    auc = {"value": 0.7, "ci95": [0.65, 0.75]}
    assert shown("loss_auc", auc) == f"0.700 (0.650{DASH}0.750)"
    assert shown("linear_x", auc) == f"70.0% (65.0{DASH}75.0)"
    never, steps = {"value": None, "never": 200}, {"value": 40, "ci95": None}
    name = "all_layers_5_images_to_50_percent"
    assert shown(name, never) == "never (200 steps)"
    assert shown("all_layers_fewest_images_to_50_percent", {"value": None, "never": 500}) == "never (500 images)"
    assert shown(name, None) == shown(name, {"value": math.nan}) == NOTHING
    assert gap(name, never, steps) == ">+160"
    assert gap(name, steps, never) == "<-160"
    assert gap(name, never, never) == gap(name, steps, None) == NOTHING
    assert gap("linear_x", auc, {"value": 0.5}) == "+20.0 points"


def test_the_evidence_has_a_row_for_each_measure_but_long_lists_of_layers(evaluate):
    evaluation = evaluate()
    for question, named in evaluation["unlearned"]["measures"].items():
        rows = audit_tables.evidence(evaluation, question)
        layers = [name for name in named if name.startswith("weight_distance_")]
        assert [row[0] for row in rows[1:]] == [label(name) for name in named if name not in layers]
        assert len(audit_tables.layer_changes(evaluation, question)[1:]) == len(layers)


def test_the_numbers_of_a_curve_are_read_off_it():
    curve = {"fpr": [0, 0.005, 0.01, 0.5, 1], "tpr": [0.1, 0.2, 0.3, 0.9, 1]}
    rows = audit_tables.roc_numbers({"original": {"curves": {"roc": {"loss": curve}}}})
    assert rows[1] == ["Loss threshold", "Original", "10.0%", "30.0%", "30.0%"]


def test_every_curve_is_drawn(evaluate):
    evaluation = evaluate()
    assert len(audit_figures.roc(evaluation)[0]) == 2
    assert len(audit_figures.relearning(evaluation)[0]) == 3
    assert len(audit_figures.cka(evaluation)) == 2
    assert len(audit_figures.feature_map(evaluation)) == 3


def test_without_curves_nothing_is_drawn(evaluate):
    evaluation = evaluate()
    for key in ("original", "unlearned", "retrained"):
        del evaluation[key]["curves"]
    for draw in (audit_figures.roc, audit_figures.relearning):
        assert draw(evaluation) == ([], 0)
    assert audit_figures.cka(evaluation) == audit_figures.feature_map(evaluation) == []


def test_curves_of_the_models_differ_in_colour_and_in_line(evaluate):
    drawn = audit_figures.relearning(evaluate())[0][0]
    lines = re.findall(r'style="(fill: none; stroke[^"]*)"', drawn)
    styles = {(re.search(r"--\w+", line)[0], "dasharray" in line) for line in lines}
    assert {("--after", False), ("--ink", True), ("--muted", True)} <= styles


def test_curves_of_a_single_point_are_drawn():
    models = ("original", "unlearned", "retrained")
    curves = {
        "roc": {"a": {"fpr": [0.0, 1.0], "tpr": [0.0, 1.0]}},
        "relearning": {"a": {"steps": [0], "accuracy": [0.9]}},
        "cka": {"original": {"only": 1.0}, "retrained": {"only": -0.01}},
        "map": {"x": [1.0], "y": [1.0], "forgotten": [True]},
    }
    evaluation = {model: {"curves": curves} for model in models}
    for drawn in (
        *audit_figures.roc(evaluation)[0],
        *audit_figures.relearning(evaluation)[0],
        *audit_figures.cka(evaluation),
        *audit_figures.feature_map(evaluation),
    ):
        ET.fromstring(drawn)


@given(st.integers(0, 4000), st.integers(0, 4000))
def test_a_map_has_no_more_than_its_points_and_shows_both_groups(rest, gone):
    mask = np.repeat([False, True], [rest, gone])
    chosen = audit_figures.thinned(mask)
    assert len(chosen) == len(set(chosen)) == min(len(mask), audit_figures.MOST_POINTS)
    assert mask[chosen].any() == (gone > 0)
    assert (~mask[chosen]).any() == (rest > 0)
