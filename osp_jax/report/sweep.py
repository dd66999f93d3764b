"""The table of all classes forgotten one at a time, from the JSON that `experiments.sweep` writes."""

from statistics import mean, median_high
from typing import Any

from osp_jax.report.formats import NOTHING, commit, markdown_table
from osp_jax.report.nouns import noun

SUMMARY_HEADER = [
    "Method",
    "Forget accuracy, mean",
    "worst class",
    "Retained accuracy, mean change (points)",
    "worst class",
    "Warm time",
]


_READABLE = {"probe": "Linear probe, change", "new_head": "New last layer, change"}


def summary_header(results: dict[str, Any]) -> list[str]:
    """The names of the columns of `sweep_summary`; with what was asked of the features, where it was."""
    return SUMMARY_HEADER + [_READABLE[name] for name in _asked(results)]


def _asked(results: dict[str, Any]) -> list[str]:
    return [name for name in _READABLE if name in results["classes"][0]["original"]]


def sweep_summary(results: dict[str, Any]) -> list[list[str]]:
    """A row for each method, under `summary_header`."""
    rows = []
    for method in results["options"]:
        found = swept(results, method)
        pairs = [(row[method], row["original"]) for row in results["classes"]]
        readable = [mean(after[name] - before[name] for after, before in pairs) for name in _asked(results)]
        rows.append(
            [
                method,
                f"{found['forget']:.2%}",
                f"{found['forget_worst']:.2%}",
                f"{100 * found['change']:+.2f}",
                f"{100 * found['change_worst']:+.2f}",
                NOTHING if found["warm"] is None else f"{1e3 * found['warm']:.2f} ms",
                *(f"{100 * change:+.1f}" for change in readable),
            ]
        )
    return rows


def swept(results: dict[str, Any], method: str) -> dict[str, float | None]:
    """Over classes: `forget` accuracy and `change` of the retained one, mean and worst, and median `warm` seconds, None
    where no request was repeated."""
    of_class = [(row[method], row["original"]) for row in results["classes"]]
    forget = [after["forget_accuracy"] for after, _ in of_class]
    change = [after["retain_accuracy"] - before["retain_accuracy"] for after, before in of_class]
    warm = [after["warm_seconds"] for after, _ in of_class if after["warm_seconds"] is not None]
    return {
        "forget": mean(forget),
        "forget_worst": max(forget),
        "change": mean(change),
        "change_worst": min(change),
        "warm": median_high(warm) if warm else None,
    }


def sweep_markdown(results: dict[str, Any]) -> str:
    """The page `table.md`: what was run, the summary by method, and every class."""
    methods = list(results["options"])
    classes = [
        [
            row["name"],
            *(f"{row['original'][which]:.1%}" for which in ("forget_accuracy", "retain_accuracy")),
            *(f"{row[m]['forget_accuracy']:.1%}" for m in methods),
            *(f"{100 * (row[m]['retain_accuracy'] - row['original']['retain_accuracy']):+.2f}" for m in methods),
        ]
        for row in results["classes"]
    ]
    header = ["Class", "Original, it", "Original, others"]
    header += [f"{m}, it" for m in methods] + [f"{m}, others (points)" for m in methods]
    source, model, made = (results[key] for key in ("dataset", "model", "provenance"))
    trained = results["training"]["provenance"]
    versions = ", ".join(f"{name} {made['versions'][name]}" for name in ("jax", "flax", "optax"))
    options = [[m, ", ".join(f"{name}={value}" for name, value in results["options"][m].items())] for m in methods]
    return "\n".join(
        [
            f"# {source['variant']}, {model['name']}: classes forgotten in turn",
            "",
            f"{model['parameters']:,} parameters; {results['accuracy']:.2%} accuracy on {results['num_images']:,} "
            f"{results['split']} {noun(results)}s before unlearning. Retained accuracy: on the {noun(results)}s of "
            "all other classes, over all outputs; its change is against the original, in points.",
            "",
            markdown_table(summary_header(results), sweep_summary(results)),
            markdown_table(header, classes),
            markdown_table(["Method", "Options"], options),
            f"Made by `{made['command']}` at commit {commit(made)}; the model by `{trained['command']}` "
            f"at commit {commit(trained)}. {versions}, Python {made['python']}, {made['device']}.",
            "",
        ]
    )
