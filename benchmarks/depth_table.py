"""The results of `benchmarks.depth` as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from osp_jax.report.tables import markdown_table


def markdown(found: Sequence[Mapping[str, Any]]) -> str:
    """One table per network: what is refitted, its cost, and the remaining information in the features."""
    return "\n\n".join(map(_network, found))


def _network(results: Mapping[str, Any]) -> str:
    stages = [key.removeprefix("probe_") for key in results["rows"][0] if key.startswith("probe_")]
    header = ["Refitted", "Class", "Forgotten", "Others, change"]
    for place, _ in enumerate(stages, 1):
        header += [f"Probe {place}, gap", f"New head {place}, gap"]
    header += ["Steps to relearn half", "Warm request"]
    rows, originals, references = [], {}, {}
    for row in results["rows"]:
        originals |= {row["class"]: row} if row["name"] == "original" else {}
        references |= {row["class"]: row} if row["name"] == "reference" else {}
    for row in results["rows"]:
        original, reference = originals[row["class"]], references.get(row["class"])
        cells = [row["name"], row["class"], f"{100 * row['forget_accuracy']:.1f}%"]
        cells.append(_points(row["retain_accuracy"] - original["retain_accuracy"]) if row is not original else "-")
        for stage in stages:
            for key in (f"probe_{stage}", f"head_{stage}"):
                same = reference is None or row is reference
                cells.append(f"{100 * row[key]:.1f}%" if same else _points(row[key] - reference[key]))
        steps, seconds = row.get("relearn_50"), row.get("warm_seconds")
        cells += ["-" if steps is None else f"{steps:.0f}", "-" if seconds is None else f"{seconds:.1f} s"]
        rows.append(cells)
    named, asked = ", ".join(f"`{stage}`" for stage in stages), results.get("images", "test images")
    text = (
        f"{results['network']} on {results['dataset']}, {asked}; settings of `concept-erasure`. Stages are the last of "
        f"each width: {named}. Gaps are in points against the network trained without the class, whose row has its own "
        f"figures. Measured on {results['provenance']['device']}.\n\n{markdown_table(header, rows)}"
    )
    if results["each_class"]:
        columns = ["Every class in turn", "Forgotten, mean", "worst", "Others, change", "worst"]
        text += "\n\n" + markdown_table(columns, [_each(row) for row in results["each_class"]])
    return text


def _each(row: Mapping[str, Any]) -> list[str]:
    name = ", ".join(f"{key}={value}" for key, value in row["settings"].items()) or "the default"
    shares = (f"{100 * row[key]:.2f}%" for key in ("forgotten_mean", "forgotten_worst"))
    return [name, *shares, _points(row["others_mean"], 2), _points(row["others_worst"], 2)]


def _points(value: float, digits: int = 1) -> str:
    return f"{100 * value:+.{digits}f}"
