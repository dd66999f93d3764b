import xml.etree.ElementTree as ET

import matplotlib
import pytest

from osp_jax.report import figures


def _texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize(("classes", "forget"), [(10, (3,)), (10, ()), (100, (7,)), (200, tuple(range(10)))])
def test_class_figures_name_the_forgotten_classes(evaluate, classes, forget):
    evaluation = evaluate(classes, forget)
    shown = _texts(figures.per_class(evaluation))
    assert {evaluation["dataset"]["class_names"][index] for index in forget} <= set(shown)


def test_a_small_confusion_matrix_shows_its_counts(evaluate):
    evaluation = evaluate()
    counts = {str(count) for row in evaluation["original"]["confusion"] for count in row if count}
    assert counts <= set(_texts(figures.confusion(evaluation, "original")))


def test_labels_of_neighbouring_classes_do_not_touch(evaluate):
    shown = _texts(figures.confusion(evaluate(200, tuple(range(10))), "unlearned"))
    assert [text for text in shown if text.startswith("class")] == ["class 0", "class 8"] * 2


def test_destinations_are_drawn_for_each_forgotten_class(evaluate):
    assert len(figures.destinations(evaluate(10, (3, 5)))) == 2
    assert figures.destinations(evaluate(10, ())) == []


def test_layers_beyond_the_last_panel_are_counted(evaluate):
    panels, left_out = figures.channels(evaluate(layers=14))
    assert (len(panels), left_out) == (12, 2)


def test_untouched_layers_have_no_panel(evaluate):
    evaluation = evaluate(layers=2)
    for layer in evaluation["channels"].values():
        layer["factor"] = [1.0] * len(layer["factor"])
    assert figures.channels(evaluation) == ([], 0)


def test_drawing_leaves_the_settings_of_matplotlib_alone(evaluate):
    before = dict(matplotlib.rcParams)
    figures.confusion(evaluate(), "original")
    assert dict(matplotlib.rcParams) == before


def test_names_are_text_and_not_formulas(evaluate):
    evaluation = evaluate()
    evaluation["dataset"]["class_names"] = ["$x^2$", "<b>&", "猫"] + ["c"] * 7
    assert {"$x^2$", "<b>&", "猫"} <= set(_texts(figures.per_class(evaluation)))
