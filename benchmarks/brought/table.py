"""The table of the networks of other people: what each method leaves, loses, and is refused for."""

from collections.abc import Sequence
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
_NOTHING = "-"


def rows(found: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A row for each network and method, under `HEADER`, from rows a class."""
    pairs = dict.fromkeys((row["network"], row["method"]) for row in found)
    return [_row(pair, [row for row in found if (row["network"], row["method"]) == pair]) for pair in pairs]


def markdown(results: dict[str, Any]) -> str:
    """What `python -m benchmarks.brought --json` wrote, as a table with what it was measured on."""
    from osp_jax.report.tables import markdown_table

    made = results["provenance"]
    networks = ", ".join(f"{name} {of['accuracy']:.2%}" for name, of in results["networks"].items())
    return (
        f"{results['dataset']}, {results['test_images']:,} test images; accuracy before: {networks}. Each class "
        f"forgotten in turn by each method with its default settings and, where it sees images, up to "
        f"{results['images_per_class']} of a class; on the class in percent, on the others in points against the "
        "network before. Refused: by the harm check with its default limits, over all classes; the "
        "figures before that column count refused models too. Seconds: the median of a request, with the check and, "
        f"in the first one, compilation; statistics were at hand. On {made['device']}, `{made['command']}`:\n\n"
        + markdown_table(HEADER, rows(results["rows"]))
        + _errors(results["rows"])
    )


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
    """Of the accuracy on the other classes, in points."""
    return 100 * (row["others_after"] - row["others_before"])


def _errors(found: Sequence[dict[str, Any]]) -> str:
    errors = {(row["network"], row["method"]): row["error"] for row in found if row["error"] is not None}
    told = [f"- {method} on {network}: {error}" for (network, method), error in errors.items()]
    return "\nCannot act:\n\n" + "\n".join(told) + "\n" if told else ""
