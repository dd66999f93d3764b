"""Scores by hand, and two controls: leaks are detected, and models without leaks pass."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.svm import SVC

from osp_jax.audit.membership import NOT_FINITE, membership, protocols, scores
from osp_jax.runtime.errors import InputError


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


def unequal_answers() -> dict:
    """Nine retained classes and a forgotten one, as many images of each, in the order of a data set."""
    rng = np.random.default_rng(1)

    def part(labels, extra):
        logits = rng.normal(size=(len(labels), 10))
        logits[np.arange(len(labels)), labels] += extra + rng.normal(size=len(labels))
        return logits, labels

    retained = rng.integers(1, 10, 1800)
    return {
        "train_retain": part(retained, 5.0),
        "train_forget": part(np.zeros(200, int), 3.0),
        "test_retain": part(retained[:450], 4.0),
        "test_forget": part(np.zeros(80, int), 2.0),
    }


def fitted_share(members, others, asked) -> float:
    """The protocol of the authors, straight with scikit-learn: the share of `asked` taken for the others."""
    classifier = SVC(C=3, gamma="auto", kernel="rbf")
    classifier.fit(np.concatenate([members, others]), np.repeat([1, 0], [len(members), len(others)]))
    return 1 - classifier.predict(asked).mean()


def of_the_true_class(logits, labels) -> np.ndarray:
    return softmax(logits, -1)[np.arange(len(labels)), labels][:, None]


def test_the_protocols_of_others_are_theirs_at_nine_retained_images_to_one():
    given = unequal_answers()
    p = {part: of_the_true_class(*answer) for part, answer in given.items()}
    found = protocols(given)
    kodge = fitted_share(p["train_retain"], p["train_forget"], p["test_forget"])
    assert found["kodge_svc_non_members"]["value"] == pytest.approx(kodge)
    salun = fitted_share(p["train_retain"][:450], p["test_retain"], p["train_forget"])
    assert found["salun_svc_non_members"]["value"] == pytest.approx(salun)
    # As many of each side, which was the default, is another figure.
    assert abs(fitted_share(p["train_retain"][:200], p["train_forget"], p["test_forget"]) - kodge) > 0.1


def test_a_cap_keeps_the_ratio_of_the_sides_and_draws_nothing():
    given = unequal_answers()
    found = protocols(given, most_of_all=1000)
    p = {part: of_the_true_class(*answer) for part, answer in given.items()}
    by_hand = fitted_share(p["train_retain"][::2], p["train_forget"][::2], p["test_forget"])
    assert found["kodge_svc_non_members"]["value"] == pytest.approx(by_hand)
    measures, _ = membership({part: (x[:80], y[:80]) for part, (x, y) in given.items()}, whole=given, seed=3)
    assert measures["kodge_svc_non_members"]["value"] == protocols(given)["kodge_svc_non_members"]["value"]


@pytest.mark.parametrize("where", ["train_forget", "test_retain"])
def test_a_network_that_answers_nan_has_no_value_and_says_why(where):
    broken, whole = answers(1.0), membership(answers(1.0))[0]
    broken[where][0][5, 2] = np.nan
    measures, roc = membership(broken)
    assert measures.keys() == whole.keys()
    assert roc == {}
    for name, found in measures.items():
        assert (found["value"], found["why"], found["leak"]) == (None, NOT_FINITE, whole[name]["leak"]), name
