"""Accuracies of a three-class case, counted by hand."""

import json

import numpy as np
import pytest

from osp_jax.audit.accuracy import (
    accuracy,
    accuracy_report,
    closeness,
    confusion_matrix,
    predictions_of,
    without_logits,
)

LABELS = np.array([0, 0, 0, 0, 1, 1, 2, 2])
PREDICTIONS = np.array([0, 0, 0, 1, 1, 2, 0, 0])
LOGITS = 3.0 * np.eye(3)[PREDICTIONS] - 1.0


@pytest.fixture
def report():
    train = LOGITS[:5], np.array([0, 0, 2, 1, 2])  # right: 0, 0, -, 1, -
    return accuracy_report(train, (LOGITS, LABELS), forget=(2,))


def test_accuracy_is_the_share_of_right_answers_among_the_chosen():
    assert accuracy(PREDICTIONS, LABELS, LABELS == 0) == 0.75
    assert accuracy(PREDICTIONS, LABELS, LABELS == 2) == 0.0
    assert accuracy(PREDICTIONS, LABELS, np.ones(8, bool)) == 0.5


def test_accuracy_of_no_image_is_none():
    assert accuracy(PREDICTIONS, LABELS, LABELS == 7) is None


def test_the_confusion_matrix_has_true_classes_in_rows():
    counts = confusion_matrix(PREDICTIONS, LABELS, 3)
    assert counts.tolist() == [[3, 1, 0], [0, 1, 1], [2, 0, 0]]
    assert counts.dtype == np.int64


def test_classes_that_do_not_occur_have_their_row_and_column():
    assert confusion_matrix(np.array([1]), np.array([0], np.int32), 4).tolist()[2:] == [[0] * 4] * 2


def test_the_report_by_hand(report):
    assert report["train_retain_accuracy"] == pytest.approx(3 / 3)
    assert report["train_forget_accuracy"] == 0.0
    assert report["test_retain_accuracy"] == pytest.approx(4 / 6)  # the image of class 1 sent to class 2 is wrong
    assert report["test_forget_accuracy"] == 0.0
    assert report["per_class"] == [0.75, 0.5, 0.0]
    assert report["confusion"] == [[3, 1, 0], [0, 1, 1], [2, 0, 0]]
    assert report["forgotten_predictions"] == {"2": {"0": 1.0}}


def test_the_report_is_json(report):
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_what_has_no_image_is_none():
    few = LOGITS[:4], LABELS[:4]
    report = accuracy_report(few, few, forget=(2,))
    assert (report["train_forget_accuracy"], report["test_forget_accuracy"]) == (None, None)
    assert report["per_class"] == [0.75, None, None]
    assert report["forgotten_predictions"] == {"2": {}}


def test_with_nothing_forgotten_all_is_retained():
    report = accuracy_report((LOGITS, LABELS), (LOGITS, LABELS), forget=())
    assert (report["test_retain_accuracy"], report["test_forget_accuracy"]) == (0.5, None)


def test_without_its_logits_a_class_is_never_predicted():
    logits = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)
    before = logits.copy()
    masked = without_logits(logits, (1, 4))
    assert set(masked.argmax(-1)) == {0, 2, 3}
    np.testing.assert_array_equal(masked[:, [0, 2, 3]], before[:, [0, 2, 3]])
    np.testing.assert_array_equal(logits, before)  # the original is left as it was


def test_closeness_is_taken_from_the_differences_to_the_retrained_model():
    mine = {"train_forget": 0.1, "train_retain": 0.9, "test_retain": 0.8}
    retrained = {"train_forget": 0.0, "train_retain": 1.0, "test_retain": 0.8}
    found = closeness(mine, retrained, [-0.2])
    assert found["tug_of_war"]["value"] == pytest.approx(0.9 * 0.9 * 1.0)
    assert found["average_gap"]["value"] == pytest.approx((0.1 + 0.1 + 0.0 + 0.2) / 4)
    perfect = closeness(retrained, retrained, [0.0])
    assert (perfect["tug_of_war"]["value"], perfect["average_gap"]["value"]) == (1, 0)


def test_an_answer_that_is_not_finite_is_wrong_and_of_no_class():
    logits = np.array([[np.nan, 0.0], [2.0, 1.0], [np.nan, np.nan], [-np.inf, 1.0], [np.inf, 0.0]])
    np.testing.assert_array_equal(predictions_of(logits), [-1, 0, -1, 1, -1])
    labels = np.array([0, 0, 0, 1, 0])
    report = accuracy_report((logits, labels), (logits, labels), forget=(0,))
    assert report["test_forget_accuracy"] == 0.25
    assert report["test_retain_accuracy"] == 1.0
    assert report["confusion"] == [[1, 0], [0, 1]]
    assert report["forgotten_predictions"] == {"0": {"0": 0.25}}
