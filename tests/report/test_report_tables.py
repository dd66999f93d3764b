import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osp_jax.audit.measure import wilson
from osp_jax.report import markdown_table, summary, tables
from osp_jax.report.formats import DASH, NOTHING, commit, duration, markdown_text, percent, points


def _numbers(value):
    if isinstance(value, dict):
        return [number for item in value.values() for number in _numbers(item)]
    if isinstance(value, list):
        return [number for item in value for number in _numbers(item)]
    return [value] if isinstance(value, (int, float)) else []


@pytest.mark.parametrize("table", [tables.accuracy_table, tables.class_table, tables.destinations])
@pytest.mark.parametrize("classes", [10, 100])
def test_every_table_number_stands_in_the_json(evaluate, table, classes):
    evaluation = evaluate(classes)
    known = {f"{100 * number:.1f}" for number in _numbers(evaluation)} | {"0.0"}
    rows = table(evaluation)
    assert len(rows) > 4
    shown = re.findall(r"(\d+\.\d)%", " ".join(cell for row in rows for cell in row))
    assert shown
    assert set(shown) <= known


def test_changes_are_differences_to_the_original_in_points(evaluate):
    evaluation = evaluate()
    before = evaluation["original"]["test_retain_accuracy"]
    for key, row in zip(tables.MODELS, tables.accuracy_table(evaluation)[1:], strict=True):
        expected = f"{100 * (evaluation[key]['test_retain_accuracy'] - before):+.1f}"
        assert row[3] == (NOTHING if key == "original" else expected)


def test_intervals_come_from_the_confusion_counts(evaluate):
    evaluation = evaluate()
    row = evaluation["original"]["confusion"][3]
    low, high = wilson(row[3], sum(row))
    assert tables.accuracy_table(evaluation)[1][1].endswith(f"({100 * low:.1f}{DASH}{100 * high:.1f})")


def test_without_confusion_counts_no_interval_is_shown(evaluate):
    evaluation = evaluate()
    for key in tables.MODELS:
        del evaluation[key]["confusion"]
    assert "(" not in tables.markdown(tables.accuracy_table(evaluation))
    assert "interval" not in " ".join(summary(evaluation))


def test_what_is_nearly_none_or_all_is_not_rounded_to_it():
    shown = [percent(value) for value in (0.0, 0.0001, 0.5, 0.9999, 1.0)]
    assert shown == ["0.0%", "<0.1%", "50.0%", ">99.9%", "100.0%"]
    assert percent(None) == points(None, 0.5) == duration(None) == NOTHING


def test_a_vanishing_change_has_no_minus_sign():
    assert points(0.5, 0.50001) == "+0.0"


def test_durations_take_the_unit_that_keeps_them_short():
    shown = [duration(seconds) for seconds in (0.00041, 0.0123, 0.9999, 83.2, 600.0)]
    assert shown == ["410 µs", "12.3 ms", "1 s", "83.2 s", "10.0 min"]


def test_the_summary_says_what_was_asked_and_what_came_of_it(evaluate):
    evaluation = evaluate()
    message = " ".join(summary(evaluation))
    for key in ("original", "unlearned", "retrained", "logit_masked"):
        assert percent(evaluation[key]["test_retain_accuracy"]) in message
    assert message.startswith("The model was asked to forget class 'cat'. It recognised ")
    assert "The request read no images; the class statistics, collected before, come from 50,000 images." in message


def test_the_summary_names_many_classes_briefly(evaluate):
    message = summary(evaluate(100, tuple(range(10))))[0]
    assert message.endswith("classes 'class 0', 'class 1', 'class 2', 'class 3', 'class 4' and 5 more.")


def test_missing_fractions_are_no_numbers(evaluate):
    evaluation = evaluate()
    for key in tables.MODELS:
        evaluation[key]["test_forget_accuracy"] = evaluation[key]["per_class"][3] = None
    assert "no unseen images of this class" in " ".join(summary(evaluation))
    assert {row[1] for row in tables.accuracy_table(evaluation)[1:]} == {NOTHING}


def test_many_classes_are_cut_to_the_forgotten_and_the_most_changed(evaluate):
    shown = tables.shown_classes(evaluate(100, (7, 50)))
    assert shown[:2] == [7, 50]
    assert len(shown) == len(set(shown)) == 17


def test_a_markdown_table_shows_exactly_its_text():
    table = markdown_table(["name", "n"], [["a|b", 1], ["<b>&", 20], ["*x* [y](z) _u_ v_w", NOTHING]])
    assert table == (
        "| name | n |\n| --- | ---: |\n| a\\|b | 1 |\n| &lt;b>&amp; | 20 |\n"
        f"| \\*x\\* \\[y\\](z) \\_u\\_ v_w | {NOTHING} |\n"
    )  # fmt: skip


@given(st.text())
def test_no_name_breaks_a_markdown_row(name):
    line = markdown_text(name)
    assert len(line.splitlines()) <= 1
    assert not re.search(r"(?<!\\)(\\\\)*\|", line)
    assert "<" not in line


def test_a_commit_is_reported_with_the_changes_that_it_lacks():
    assert commit({"commit": "0123456789abcdef"}) == "0123456789ab"
    assert commit({"commit": "0123456789abcdef+"}) == "0123456789ab with changes"
    assert commit({"commit": "unknown"}) == "unknown"
