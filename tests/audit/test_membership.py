"""Scores by hand, and the two controls: what leaks is caught, what does not is let through."""

import numpy as np
import pytest

from osp_jax.audit.membership import membership, scores
from osp_jax.errors import InputError


def test_the_scores_of_two_classes_by_hand():
    found = scores(np.log([[0.8, 0.2], [0.8, 0.2]]), np.array([0, 1]))
    assert found["confidence"] == pytest.approx([0.8, 0.8])
    assert found["loss"] == pytest.approx(np.log([0.8, 0.2]))
    entropy = -(0.8 * np.log(0.8) + 0.2 * np.log(0.2))
    assert found["entropy"] == pytest.approx([-entropy] * 2)
    # -(1 - p_y) log p_y - p_other log(1 - p_other), for y = 0 and y = 1
    assert found["modified_entropy"] == pytest.approx([2 * 0.2 * np.log(0.8), 2 * 0.8 * np.log(0.2)])


def test_a_class_that_is_masked_out_has_finite_or_ordered_scores():
    logits = np.array([[-np.inf, 1.0, 0.0], [-np.inf, 3.0, 0.0]])
    found = scores(logits, np.array([0, 0]))
    assert np.all(found["loss"] == -np.inf)
    assert np.all(np.isfinite(found["entropy"]))
    assert not any(np.isnan(values).any() for values in found.values())


def answers(margin: float, n: int = 300, classes: int = 4) -> dict:
    """A model that is surer of its training images by `margin` logits; the class 0 was to be forgotten."""
    rng = np.random.default_rng(0)

    def part(label: int | None, extra: float):
        labels = np.full(n, label) if label is not None else rng.integers(1, classes, n)
        logits = rng.normal(size=(n, classes))
        logits[np.arange(n), labels] += 1 + extra
        return logits, labels

    return {
        "train_forget": part(0, margin),
        "test_forget": part(0, 0.0),
        "train_retain": part(None, margin),
        "test_retain": part(None, 0.0),
    }


def test_a_model_that_memorised_is_caught_by_every_attack():
    measures, roc = membership(answers(margin=3.0))
    for name, found in measures.items():
        if name.endswith("_auc") or name.endswith("_balanced_accuracy"):
            assert found["ci95"][0] > 0.5, name
    assert measures["loss_tpr_at_1_percent_fpr"]["value"] > 0.05
    assert measures["ssd_entropy_members"]["value"] > 0.6
    assert measures["kodge_svc_non_members"]["value"] < 0.7
    assert roc.keys() == {"confidence", "entropy", "modified_entropy", "loss", "logistic", "svc"}


def test_a_model_that_treats_both_alike_passes():
    measures, _ = membership(answers(margin=0.0))
    for name, found in measures.items():
        if name.endswith("_auc") or name.endswith("_balanced_accuracy"):
            assert found["ci95"][0] < 0.53, name


def test_a_rate_that_so_few_images_cannot_tell_is_left_open():
    measures, _ = membership(answers(1.0, n=50))
    assert measures["loss_tpr_at_1_percent_fpr"]["value"] is None
    assert measures["loss_tpr_at_0_1_percent_fpr"]["value"] is None
    assert membership(answers(1.0, n=200))[0]["loss_tpr_at_1_percent_fpr"]["value"] is not None


def test_too_few_images_are_an_input_error():
    with pytest.raises(InputError, match="too few to split"):
        membership(answers(1.0, n=9))
