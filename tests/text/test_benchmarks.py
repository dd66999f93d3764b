"""The table of STEU's controls, and the linear baseline."""

import numpy as np
import pytest

from benchmarks import tfidf, token_edits
from osp_jax.audit.accuracy import f1_scores
from osp_jax.methods.steu import Steu
from osp_jax.text.dataset import divided_texts
from tests.text.conftest import SETTINGS


def test_f1_is_that_of_scikit_learn():
    from sklearn.metrics import f1_score

    draw = np.random.default_rng(0)
    labels, predictions = draw.integers(0, 4, 200), draw.integers(0, 3, 200)  # class 3 is never predicted
    wanted = f1_score(labels, predictions, average=None, zero_division=0)
    np.testing.assert_allclose(f1_scores(predictions, labels, 4), wanted)
    assert f1_scores(predictions, labels, 4)[3] == 0


def test_the_variants_are_settings_of_steu_and_all_differ():
    made = [Steu(**changes) for changes in token_edits.VARIANTS.values()]
    assert len(set(made)) == len(made)


def test_a_linear_model_learns_words_and_its_setting_is_chosen_on_training_texts(texts, monkeypatch):
    found = divided_texts(texts, SETTINGS)
    asked = []
    fitted = tfidf.fitted
    monkeypatch.setattr(
        tfidf, "fitted", lambda texts, labels, strength: asked.append(len(texts)) or fitted(texts, labels, strength)
    )
    result = tfidf.baseline(found)
    assert result["test_accuracy"] == pytest.approx(1.0, abs=0.1)
    assert asked == [144, 144, 160]
    assert result["validation_accuracy"][str(result["strength"])] == max(result["validation_accuracy"].values())
