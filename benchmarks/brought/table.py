"""The table of other people's networks: results, losses and refusals of each method."""

from collections.abc import Iterable, Sequence
from statistics import mean, median
from typing import Any

HEADER = [
    "Network",
    "Method",
    "Forgotten, mean",
    "worst",
    "Others, mean change",
    "worst",
    "Refused",
    "Handed back, worst change",
    "Seconds",
]
HOME_HEADER = [
    "Network",
    "Method",
    "File",
    "Handed out",
    "Entries",
    "Changed by the method",
    "Others identical",
    "Predictions that differ",
    "Largest difference of a logit",
]
_NOTHING = "-"


def rows(found: Sequence[dict[str, Any]]) -> list[list[str]]:
    """One row per network and method, under `HEADER`, from rows per class."""
    pairs = dict.fromkeys((row["network"], row["method"]) for row in found)
    return [_row(pair, [row for row in found if (row["network"], row["method"]) == pair]) for pair in pairs]


def home_rows(found: Sequence[dict[str, Any]]) -> list[list[str]]:
    """One row per network and method, under `HOME_HEADER`, from rows per class."""
    pairs = dict.fromkeys((row["network"], row["method"]) for row in found)
    return [_home_row(pair, [row for row in found if (row["network"], row["method"]) == pair]) for pair in pairs]


def markdown(results: dict[str, Any]) -> str:
    """The results of `python -m benchmarks.brought --json` as tables, with a description of the measurement."""
    from osp_jax.report.tables import markdown_table

    networks = ", ".join(f"{name} {of['accuracy']:.2%}" for name, of in results["networks"].items())
    home = results["home"]
    return (
        f"{results['dataset']}, {results['test_images']:,} test images; accuracy before: {networks}. Each class "
        f"forgotten in turn by each method with its default settings and, where it sees images, up to "
        f"{results['images_per_class']} of a class; on the class in percent, on the others in points against the "
        "network before. Refused: by the harm check with its default limits, over all classes; the "
        "figures before that column count refused models too. Seconds: the median of a request, with the check and, "
        f"in the first one, compilation; statistics were at hand. {_measured(results['networks'])}\n\n"
        + markdown_table(HEADER, rows(results["rows"]))
        + _errors(results["rows"])
        + (_HOME.format(images=results["test_images"]) + markdown_table(HOME_HEADER, home_rows(home)) if home else "")
    )


_HOME = (
    "\nTaken home: each file of PyTorch was imported, each class forgotten in turn, and each result exported as a file "
    "of the format that came in. Entries are those of the file; the ones that the method did not change were compared "
    "bit for bit. Predictions and logits are those of PyTorch, which loads the exported file strictly under its own "
    "keys, against those of JAX on {images:,} test images, the most over all classes.\n\n"
)


def _measured(networks: dict[str, Any]) -> str:
    """'Measured: NETWORKS on DEVICE by `COMMAND`', of each command."""
    made = {}
    for name, run in ((name, run) for name, of in networks.items() for run in of["runs"]):
        made.setdefault((run["device"], run["command"]), []).append(name)
    parts = [f"{', '.join(names)} on {device} by `{command}`" for (device, command), names in made.items()]
    return f"Measured: {'; '.join(parts)}:"


def _home_row(pair: tuple[str, str], of_pair: Sequence[dict[str, Any]]) -> list[str]:
    made = [row for row in of_pair if not row["refused"]]
    cells = [*pair, of_pair[0]["file"], f"{len(made)} of {len(of_pair)}"]
    if not made:
        return [*cells, *[_NOTHING] * (len(HOME_HEADER) - len(cells))]
    others = sum(row["entries"] - row["changed"] for row in made)
    wrong = sum(row["wrong"] for row in made)
    return [
        *cells,
        _span(row["entries"] for row in made),
        _span(row["changed"] for row in made),
        "all" if not wrong else f"{others - wrong} of {others}",
        f"{max(row['differing'] for row in made)} of {made[0]['images']:,}",
        f"{max(row['difference'] for row in made):.1e} of {max(row['largest'] for row in made):.0f}",
    ]


def _span(values: Iterable[int]) -> str:
    found = sorted(set(values))
    return "-".join(map(str, (found[0], found[-1]) if len(found) > 1 else found))


def _row(pair: tuple[str, str], of_pair: Sequence[dict[str, Any]]) -> list[str]:
    made = [row for row in of_pair if row["error"] is None]
    if not made:
        return [*pair, *[_NOTHING] * 4, "cannot act", _NOTHING, _NOTHING]
    forgotten, changes = [row["forgotten_after"] for row in made], [_change(row) for row in made]
    handed = [_change(row) for row in made if not row["refused"]]
    return [
        *pair,
        f"{100 * mean(forgotten):.2f}",
        f"{100 * max(forgotten):.2f}",
        f"{mean(changes):+.2f}",
        f"{min(changes):+.2f}",
        f"{sum(row['refused'] for row in made)} of {len(made)}",
        f"{min(handed):+.2f}" if handed else _NOTHING,
        f"{median(row['seconds'] for row in made):.2f}",
    ]


def _change(row: dict[str, Any]) -> float:
    """The change of the accuracy on the other classes, in points."""
    return 100 * (row["others_after"] - row["others_before"])


def _errors(found: Sequence[dict[str, Any]]) -> str:
    errors = {(row["network"], row["method"]): row["error"] for row in found if row["error"] is not None}
    told = [f"- {method} on {network}: {error}" for (network, method), error in errors.items()]
    return "\nCannot act:\n\n" + "\n".join(told) + "\n" if told else ""
