"""The accuracy of a linear model on a file of texts: logistic regression on TF-IDF of their words.

    python -m benchmarks.tfidf --config=configs/text_newsgroups.py --dir=FOLDER --json=FILE

The texts are whole, split and stripped as in the config; counts are logarithmic. The strength of the penalty is
selected on a tenth of the training texts, never on the test texts; then all training texts are fitted.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import cli
from osp_jax.data.paths import user_data
from osp_jax.data.splits import hold_out
from osp_jax.report.formats import markdown_table
from osp_jax.runtime.config_files import load_config
from osp_jax.runtime.errors import InputError
from osp_jax.runtime.provenance import provenance
from osp_jax.runtime.settings import validated
from osp_jax.runtime.workdir import write_json
from osp_jax.text.dataset import DividedTexts, divided_texts

STRENGTHS = (1.0, 10.0)  # C of scikit-learn, whose default is 1
VALIDATION = 0.1


def fitted(texts: Sequence[str], labels: np.ndarray, strength: float) -> Any:
    """A scikit-learn pipeline."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=strength, max_iter=300))
    return model.fit(texts, labels)


def baseline(texts: DividedTexts) -> dict[str, Any]:
    """The validation accuracy of each strength, the chosen one, and its test accuracy."""

    def accuracy(rows: np.ndarray, asked: np.ndarray, strength: float) -> float:
        model = fitted([texts.contents[i] for i in rows], texts.labels[rows], strength)
        return float(model.score([texts.contents[i] for i in asked], texts.labels[asked]))

    fit, validation = (texts.train[chosen] for chosen in hold_out(texts.labels[texts.train], VALIDATION, 0))
    scores = {strength: accuracy(fit, validation, strength) for strength in STRENGTHS}
    best = max(scores, key=scores.get)
    return {
        "validation_accuracy": {str(strength): score for strength, score in scores.items()},
        "strength": best,
        "test_accuracy": accuracy(texts.train, texts.test, best),
    }


def _run() -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("--config", default="configs/text_newsgroups.py", help="a training on texts")
    arguments.add_argument("--dir", default="", help="the folder of its file, or another file")
    given = arguments.parse_args()
    data = validated(load_config(given.config)).data
    place = user_data(data.name, given.dir or data.dir)
    if place is None or place.kind != "text":
        raise InputError(f"{given.config} trains on {data.name}, which is no file of texts; give another config")
    found = baseline(divided_texts(place.path, data))
    print(
        markdown_table(
            ["Data", "C", "Test accuracy"], [[place.title, found["strength"], f"{found['test_accuracy']:.2%}"]]
        )
    )
    if given.json:
        write_json(Path(given.json), {"data": place.title, **found, "provenance": provenance(0)})


if __name__ == "__main__":
    cli.run(_run)
