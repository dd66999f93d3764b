"""The table and the figure of the effect of a training penalty, from the JSON of `experiments.orthogonality`."""

from collections.abc import Callable
from statistics import mean, mode
from typing import Any

from osp_jax.report.formats import NOTHING, commit, markdown_table
from osp_jax.report.svg import svg

HEADER = [
    "Penalty in training",
    "Models",
    "Test accuracy",
    "Gram error",
    "Feature correlation",
    "Top-class share, last",
    "Retained change at forget accuracy of 5% or less",
    "and of 1% or less",
]
_MOST_LINES = 6


def variants(results: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Models by their training settings; those that differ only in the seed are together."""
    found: dict[str, list[dict[str, Any]]] = {}
    usual = mode(model["config"]["training"]["epochs"] for model in results["models"])
    for model in results["models"]:
        found.setdefault(_label(model["config"], usual), []).append(model)
    return found


def orthogonality_rows(results: dict[str, Any]) -> list[list[str]]:
    """A row for each variant, under `HEADER`; the best trade-off first."""
    found = variants(results)
    order = sorted(found, key=lambda label: -_over(found[label], lambda m: _best(m, 0.05), -1.0))
    return [
        [
            label,
            str(len(found[label])),
            f"{_over(found[label], lambda m: m['accuracy']):.1%}",
            f"{_over(found[label], lambda m: mean(m['gram_error'].values())):.2f}",
            f"{_over(found[label], lambda m: m['feature_correlation']):.3f}",
            f"{_over(found[label], lambda m: list(m['top_class_share'].values())[-1]):.3f}",
            *(_points([_best(m, most) for m in found[label]]) for most in (0.05, 0.01)),
        ]
        for label in order
    ]


def orthogonality_markdown(results: dict[str, Any]) -> str:
    """The page `table.md`."""
    made, first = results["provenance"], results["models"][0]
    layers = list(first["top_class_share"])
    shares = [
        [label, *(f"{_over(models, lambda m, name=name: m['top_class_share'][name]):.3f}" for name in layers)]
        for label, models in variants(results).items()
    ]
    return "\n".join(
        [
            f"# {results['dataset']['variant']}, {first['model']['name']}: what a penalty in training buys",
            "",
            f"{first['model']['parameters']:,} parameters. Everything but the test accuracy is on held-out training "
            "images. Gram error: mean over the convolutions of the Frobenius norm of the smaller Gram matrix less "
            "identity. Top-class share: median over channels of the part of a channel's activation that its top class "
            "owns. Retained change: in points, mean over all classes forgotten in turn, the best of "
            f"{len(results['amounts'])} amounts of masked channels ({', '.join(map(str, results['amounts']))}) and "
            f"{len(results['strengths'])} strengths of the mask whose mean forget accuracy is low enough.",
            "",
            markdown_table(HEADER, orthogonality_rows(results)),
            "Top-class share by layer:",
            "",
            markdown_table(["Penalty in training", *layers], shares),
            "![trade-off](tradeoff.svg)",
            "",
            f"Made by `{made['command']}` at commit {commit(made)}, jax {made['versions']['jax']}, "
            f"{made['device']}; each model's own command is in results.json.",
            "",
        ]
    )


def tradeoff_figure(results: dict[str, Any], amount: float = 0.25) -> str:
    """Retained change against forget accuracy over the strength of the mask, a line for each variant, as SVG."""
    found = variants(results)
    labels = [row[0] for row in orthogonality_rows(results)]
    plain = [label for label in labels if label == "none"]
    shown = list(dict.fromkeys([*plain, *labels[: _MOST_LINES - 1], *labels[-1:]]))[: _MOST_LINES + 1]

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        for label in shown:
            curves = [model["tradeoff"][str(amount)] for model in found[label]]
            x, y = ([100 * mean(values) for values in zip(*(c[key] for c in curves), strict=True)] for key in curves[0])
            axes.plot(x, y, linewidth=2 if label == "none" else 1.2, label=label)
        axes.set(xlabel="forget accuracy, %", ylabel="retained accuracy, change in points")
        axes.set_ylim(bottom=max(axes.get_ylim()[0], -15))
        axes.grid()
        axes.legend(fontsize=7)

    return svg("tradeoff", f"Trade-off with {amount:.0%} of the last channels masked", 3.4, paint)


def _label(config: dict[str, Any], usual_epochs: int) -> str:
    kernels, features, epochs = config["orthogonality"], config.get("features"), config["training"]["epochs"]
    parts = []
    if kernels["penalty"] != "none":
        layers = f" on {kernels['layers']}" if kernels["layers"] else ""
        parts.append(f"{kernels['penalty']} {kernels['weight']:g}{layers}")
    if features and features["penalty"] != "none":
        parts.append(f"{features['penalty']} {features['weight']:g}")
    return " and ".join(parts or ["none"]) + (f", {epochs} epochs" if epochs != usual_epochs else "")


def _best(model: dict[str, Any], most: float) -> float | None:
    """The best retained change at a mean forget accuracy of at most `most`; None where no mask gets there."""
    points = [
        change
        for curve in model["tradeoff"].values()
        for forget, change in zip(curve["forget_accuracy"], curve["retain_change"], strict=True)
        if forget <= most
    ]
    return max(points, default=None)


def _over(models: list[dict[str, Any]], value: Callable[[dict[str, Any]], float | None], missing: float = 0.0) -> float:
    found = [value(model) for model in models]
    return mean(missing if v is None else v for v in found)


def _points(changes: list[float | None]) -> str:
    return NOTHING if None in changes else f"{100 * mean(changes):+.2f}"
