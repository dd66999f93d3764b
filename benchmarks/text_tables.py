"""The tables of comparisons on texts: methods beside retraining, and STEU beside its controls."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from osp_jax.comparison.questions import HEAD, PROBE
from osp_jax.report.comparison_tables import YARDSTICK, Figure, kinds, summarise
from osp_jax.report.formats import NOTHING, percent
from osp_jax.report.tables import markdown_table

HEADER = ("Model", "Forgotten, test", "Others, test", "Membership", "Linear probe", "New head", "Relearning")
EDITS = {
    "forget_accuracy": "Forgotten, accuracy",
    "forget_f1": "Forgotten, F1",
    "retain_accuracy": "Others, accuracy",
    "retain_f1": "Others, mean F1",
    PROBE: "Linear probe",
    HEAD: "New head, forgotten",
    "changed": "Numbers changed",
}
_UNEDITED = ("original", "retrained")


def rows(results: Mapping[str, Any]) -> list[list[str]]:
    """A row for each model of a comparison, under `HEADER`: means over its requests of the first kind. Membership,
    probe and new head are in points to the retrained network, relearning is a share of its steps."""
    found = []
    for method, figures in summarise(results, kinds(results)[0]).items():
        gaps = [None if method == YARDSTICK else figures[name] for name in ("membership", "probe", "head")]
        again = None if method == YARDSTICK else figures["relearning"]
        found.append([
            "retrained" if method == YARDSTICK else method,
            *(NOTHING if figures[side] is None else percent(figures[side].mean) for side in ("forget", "retain")),
            *map(_points, gaps),
            NOTHING if again is None else f"{again.mean:.2f}",
        ])  # fmt: skip
    return found


def comparison(results: Mapping[str, Any], linear: Mapping[str, Any]) -> str:
    """What was compared, the accuracy of the encoder beside that of the linear baseline, and the table of `rows`.

    Args:
      results: what `experiments.benchmark` wrote.
      linear: what `benchmarks.tfidf` wrote.
    """
    config, data = results["config"], results["dataset"]
    accuracy, texts = original_accuracy(results)
    gap = 100 * (accuracy - linear["test_accuracy"])
    seeds = len({cell["seed"] for cell in results["cells"]})
    how = "one at a time" if kinds(results)[0] == "single" else "together"
    requests = "; ".join(dict.fromkeys(cell["request"] for cell in results["cells"]))
    words = (
        f"{data['variant']}: {results['model']['parameters']:,} parameters, {config['original']['training']['epochs']} "
        f"epochs, {seeds} seed{'s' if seeds > 1 else ''}. Test accuracy of the original: {accuracy:.1%} ({texts:,} of "
        f"{data['num_test']:,} test texts); of a logistic regression on TF-IDF: {linear['test_accuracy']:.1%}, a "
        f"difference of {gap:+.1f} points. Classes that are forgotten {how}: {requests}. Up to "
        f"{config['tuning']['trials']} settings a method, chosen on held-out training texts "
        f"({config['original']['data']['validation']:.0%}). Membership, probe and new head are gaps to the retrained "
        "network in points; relearning is a share of its steps."
    )
    return f"{words}\n\n{markdown_table(HEADER, rows(results))}"


def original_accuracy(results: Mapping[str, Any]) -> tuple[float, int]:
    """The test accuracy of the first original on all texts that its first request looked at, and their number."""
    first = next(cell for cell in results["cells"] if cell["method"] == "original")
    inside, accuracy = first["measures"]["inside"], first["accuracy"]
    counts = [inside[f"new_head_{side}_accuracy"]["n"] for side in ("forget", "retain")]
    values = [accuracy[f"test_{side}_accuracy"] for side in ("forget", "retain")]
    return float(np.average(values, weights=counts)), sum(counts)


def edits(given: Sequence[Mapping[str, Any]]) -> str:
    """Means over the requests of the rows that `benchmarks.token_edits` wrote, in Markdown."""

    def cell(name: str, column: str) -> str:
        value = float(np.mean([row[column] for row in given if row["model"] == name]))
        if column == "changed":
            return NOTHING if name in _UNEDITED else f"{value:,.0f}"
        return f"{value:.3f}" if column.endswith("f1") else f"{value:.1%}"

    names = dict.fromkeys(row["model"] for row in given)
    return markdown_table(
        ["Model", *EDITS.values()], [[name, *(cell(name, column) for column in EDITS)] for name in names]
    )


def token_edits(results: Mapping[str, Any]) -> str:
    """The settings of STEU that all variants share, and the table of `edits`."""
    options = next(row["options"] for row in results["rows"] if row["model"] == "steu")
    shown = ", ".join(f"{name}={options[name]}" for name in ("k", "epochs", "batch_size", "learning_rate", "loss"))
    words = f"{results['dataset']}; requests: {'; '.join(results['requests'])}. `steu` has {shown}."
    return f"{words}\n\n{edits(results['rows'])}"


def _points(figure: Figure | None) -> str:
    return NOTHING if figure is None else f"{figure.mean:+z.1f}"
