"""Reports of texts say texts, reports of images say images."""

import copy
import json
import re
from pathlib import Path

import pytest

from osp_jax.audit.measure import no_value
from osp_jax.audit.recovery import NO_PIXELS
from osp_jax.audit.run import LEVELS, settings_of
from osp_jax.report import report_html, report_markdown, summary
from osp_jax.report.audits import audits_markdown
from osp_jax.report.comparison import comparison_html, comparison_markdown, comparison_tex
from osp_jax.report.formats import NOTHING
from osp_jax.report.nouns import noun
from osp_jax.report.sweep import sweep_markdown
from tests.report.visible_text import visible_text

RESULTS = Path(__file__).parents[2] / "results"
TEXTS, IMAGES = [128], [32, 32, 3]
# Measures that the made-up audit does not have.
ATTACKS = ("even_bias", "batch_statistics", "retained_finetuning")
RARE = {
    "relearning": ("all_layers_1_image_to_50_percent",),
    "membership": ("kodge_svc_non_members", "ssd_entropy_members"),
    "recovery": tuple(f"{attack}_forget_accuracy" for attack in ATTACKS),
}


def audited(evaluate, shape):
    evaluation = evaluate()
    evaluation["dataset"]["image_shape"] = shape
    evaluation["audit"]["settings"] = settings_of(LEVELS["full"])
    for model in ("original", "unlearned", "retrained"):
        measures = evaluation[model]["measures"]
        for question, names in RARE.items():
            measures[question] |= {name: {"value": 0.5, "ci95": None, "n": 9, "leak": "high"} for name in names}
        measures["recovery"]["inversion_recognised"] = no_value(NO_PIXELS, leak="high")
    return evaluation


def saved(name):
    return json.loads((RESULTS / name / "results.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("shape", "kind"), [(TEXTS, "text"), (IMAGES, "image"), ([28, 28, 1], "image")])
def test_the_shape_of_the_inputs_gives_the_noun(shape, kind):
    assert noun({"dataset": {"image_shape": shape}}) == kind


def test_a_record_without_a_shape_is_of_images(evaluate):
    evaluation = evaluate()
    del evaluation["dataset"]["image_shape"]
    assert "unseen images of this class" in summary(evaluation)[1]


def test_a_report_of_texts_says_no_images(evaluate):
    evaluation = audited(evaluate, TEXTS)
    page = visible_text(report_html(evaluation))
    for said in (page, report_markdown(evaluation), "\n".join(summary(evaluation))):
        assert not re.findall(".*image.*", said, re.IGNORECASE)
    for words in (
        "of the unseen texts of this class",
        "Texts of 'cat' are taken for",
        "All layers, 50 texts a class",
        "All layers, 1 text a class",
        "Anamnesis index, 5 texts a class",
        "false alarms: unseen texts taken for training texts",
        f"Texts {NOTHING} a part 1000",
        "Text shape 128",
    ):
        assert words in page, words


def test_a_report_of_images_differs_from_it_in_the_noun(evaluate):
    texts, images = (report_markdown(audited(evaluate, shape)) for shape in (TEXTS, IMAGES))
    swapped = images.replace("image", "text").replace("Image", "Text")
    lines = [(mine, its) for mine, its in zip(texts.splitlines(), swapped.splitlines(), strict=True) if mine != its]
    assert [mine.split("|")[1].strip() for mine, _ in lines] == [
        "Text shape",
        "Can the class be brought back without texts of it?",  # the settings of the inversion
    ]
    assert ["inversion" in line for line in lines[1]] == [False, True]


def test_an_evaluation_without_a_request_names_its_inputs(evaluate):
    evaluation = evaluate(10, ())
    evaluation["dataset"]["image_shape"] = TEXTS
    assert "of the 900 unseen texts." in summary(evaluation)[1]
    assert "image" not in report_markdown(evaluation).lower()


def test_too_few_texts_are_no_answer(evaluate):
    evaluation = audited(evaluate, TEXTS)
    for model in ("original", "unlearned", "retrained"):
        unsure = {"value": 0.6 if model == "unlearned" else 0.5, "ci95": [0.0, 1.0], "n": 9, "leak": "high"}
        evaluation[model]["measures"] = {"membership": {"loss_auc": unsure}}
    assert "had too few texts or runs to tell it from" in summary(evaluation)[-1]
    assert "there were too few texts or runs to tell" in report_markdown(evaluation)
    assert "image" not in report_markdown(evaluation).lower()


def test_a_comparison_on_texts_says_no_images():
    results = saved("benchmark/newsgroups")
    for said in (comparison_markdown(results), comparison_tex(results), visible_text(comparison_html(results))):
        assert "image" not in said.lower()
        assert "Texts seen" in said
    results["dataset"]["image_shape"] = IMAGES
    assert "Images seen" in comparison_markdown(results)


@pytest.mark.parametrize(
    ("made", "name", "words"),
    [
        (sweep_markdown, "paper/cifar10_resnet20/sweep", "on the {}s of all other classes"),
        (audits_markdown, "audit", "the same on the same {}s"),
    ],
)
def test_sweeps_and_tables_of_audits_name_their_inputs(made, name, words):
    images = saved(name)
    texts = copy.deepcopy(images)
    texts["dataset"]["image_shape"] = TEXTS
    assert words.format("image") in made(images)
    assert words.format("text") in made(texts)
