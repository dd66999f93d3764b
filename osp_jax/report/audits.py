"""Compares many audits, methods by questions, from the `eval.json` of each."""

import math
from collections.abc import Callable, Sequence
from statistics import mean, median
from typing import Any

from osp_jax.report.formats import NOTHING, duration, markdown_table, percent, points
from osp_jax.report.measure_words import shown
from osp_jax.report.method_names import method_name
from osp_jax.report.nouns import noun
from osp_jax.report.svg import RULE, svg
from osp_jax.report.verdicts import MORE, SAME_EFFORT, SAME_SHARE, verdict

Value = Callable[[dict[str, Any]], float | None]  # of a model

COLUMNS = (
    "Forget accuracy",
    "Retained accuracy",
    "U-LiRA, AUC",
    "Linear probe",
    "New last layer",
    "Steps to 95%",
    "Best recovery",
    "Inversion",
)
_SHORT = {
    "membership": "Membership",
    "relearning": "Relearning",
    "probes": "Inside",
    "representation": "Likeness",
    "recovery": "Recovery",
}
_INVERSION = "inversion_recognised"
_STEPS = "all_layers_50_images_to_95_percent"
_MARKERS = "oD^v"  # of ten models each: Matplotlib has ten colours
MEANS = (
    "Model",
    "Forget accuracy",
    "Retained accuracy, change",
    "U-LiRA, AUC",
    "Linear probe, gap",
    "New last layer, gap",
    "Relearned faster",
    "Best recovery",
    "Inversion",
)


def condensed(evaluations: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What `results.json` keeps of several `eval.json` of one network: no curves, and of each request the original and
    the retrained model once.

    Returns:
      `requests`: by name of the forgotten classes `{"forget", "models"}`, where `models` has 'original', each method
      and 'retrained' with accuracies and `measures`; `methods`: options, seconds and provenance by method and request;
      `audit`, `model`, `dataset` of the first.
    """
    requests: dict[str, Any] = {}
    methods: dict[str, Any] = {}
    for evaluation in evaluations:
        name = ", ".join(evaluation["unlearn"]["forget_names"])
        request = requests.setdefault(name, {"forget": evaluation["forget"], "models": {}})
        for key in ("original", "unlearned", "retrained"):
            label = evaluation["method"] if key == "unlearned" else key
            request["models"][label] = _kept(evaluation[key])
        made = {"unlearn": evaluation["unlearn"]["provenance"], "eval": evaluation["provenance"]}
        answer = {name: evaluation["unlearn"][name] for name in ("options", "data_seen", "seconds")}
        methods.setdefault(evaluation["method"], {})[name] = answer | {"provenance": made}
    first = evaluations[0]
    return {key: first[key] for key in ("dataset", "model")} | {
        "audit": {key: first["audit"][key] for key in ("level", "settings")},
        "methods": methods,
        "requests": requests,
    }


def audits_markdown(results: dict[str, Any]) -> str:
    """`table.md`: by question, the number of measures on which more is left; and the figures of each request."""
    shadows, kind = results["audit"]["settings"].get("shadow models"), noun(results)
    lines = [
        f"# {results['dataset']['variant']}, {results['model']['name']}: what was forgotten, and what was hidden",
        "",
        f"{results['model']['parameters']:,} parameters; audit '{results['audit']['level']}'"
        + (f", {shadows['number']} shadow models with and as many without the class" if shadows else "")
        + f". Every model is asked the same on the same {kind}s; intervals are of 95%.",
        "",
        f"## Means over the forgotten classes ({', '.join(results['requests'])})",
        "",
        "Changes in points to the original, gaps in points to the retrained model.",
        "",
        markdown_table(MEANS, means(results)),
        "## On how many measures more is left than in the retrained model",
        "",
        "All requests together. Only measures whose difference has a 95% interval on one side of 0 that reaches beyond "
        f"the margin ({100 * SAME_SHARE:.0f} points or {SAME_SHARE:g}; of steps {SAME_EFFORT:.0%}) are counted; those "
        "on which even the untouched original shows no more cannot accuse anyone.",
        "",
        markdown_table(["Model", *_SHORT.values()], summary(results)),
    ]
    for name, request in results["requests"].items():
        lines += [f"## {name}", "", markdown_table(["Model", *COLUMNS], _figures(results, request["models"]))]
    lines += [
        f"Steps: of training with 50 {kind}s a class, all layers, until 95% of the original's accuracy on unseen "
        f"{kind}s of the class is reached. Probe: balanced accuracy on the values before the head, 50% is guessing. "
        "Best recovery: the highest forget accuracy after any of the attacks. Inversion: images made from noise that "
        "the model takes for the class, and in which the original sees it.",
        "",
    ]
    return "\n".join(lines)


def means(results: dict[str, Any]) -> list[list[str]]:
    """A row for each model, under `MEANS`: means over the requests, and in how many the class is relearned faster."""
    requests = [request["models"] for request in results["requests"].values()]
    rows = []
    for name in _ordered(dict.fromkeys(name for models in requests for name in models)):
        found = [(models[name], models["original"], models["retrained"]) for models in requests if name in models]

        def gap(value: Value, other: str, name: str = name) -> str:
            found = mean_gap(results, name, other, value)
            return NOTHING if found is None else f"{100 * found:+z.1f}"

        steps = [[of["measures"].get("relearning", {}).get(_STEPS, {}) for of in (mine, its)] for mine, _, its in found]
        faster = [verdict("relearning", *pair) == MORE for pair in steps]
        auc = [v for v in (value_of(mine, "membership", "u_lira_auc") for mine, *_ in found) if v is not None]
        inverted = [v for v in (value_of(mine, "recovery", _INVERSION) for mine, *_ in found) if v is not None]
        best = [v for v in (_best(mine) for mine, *_ in found) if v is not None]
        rows.append(
            [
                _shown(results, name),
                percent(mean([mine["test_forget_accuracy"] for mine, *_ in found])),
                NOTHING if name == "original" else gap(retain_accuracy, "original"),
                f"{mean(auc):.3f}" if auc else NOTHING,
                NOTHING if name == "retrained" else gap(linear_probe, "retrained"),
                NOTHING if name == "retrained" else gap(new_head, "retrained"),
                NOTHING if name == "retrained" else f"{sum(faster)} of {len(faster)}",
                percent(mean(best)) if best else NOTHING,
                percent(mean(inverted)) if inverted else NOTHING,
            ]
        )
    return rows


def frontier_figure(results: dict[str, Any]) -> str:
    """Retained accuracy against what a linear probe and a new head still read, means over the requests, as SVG.

    A point for each method, with the median warm time of a request; the retrained model is the target.
    """
    requests = [request["models"] for request in results["requests"].values()]
    names = _ordered(dict.fromkeys(name for models in requests for name in models))
    readers = {"linear probe": linear_probe, "new last layer": new_head}

    def label(name: str) -> str:
        made = [answer.get("seconds") or {} for answer in results["methods"].get(name, {}).values()]
        warm = [seconds["warm_median"] for seconds in made if seconds.get("warm_median") is not None]
        return f"{_shown(results, name)}, {duration(median(warm))}" if warm else _shown(results, name)

    def paint(figure: Any) -> None:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (what, reads) in zip(panels, readers.items(), strict=True):
            for place, name in enumerate(names):
                gap = mean_gap(results, name, "retrained", reads)
                if gap is None:
                    continue
                change = mean_gap(results, name, "original", retain_accuracy)
                marker = {"retrained": "*", "original": "s"}.get(name, _MARKERS[place // 10 % len(_MARKERS)])
                axes.scatter(100 * gap, 100 * change, marker=marker, s=28, color=f"C{place}", label=label(name))
            axes.axvline(0, color=RULE, linewidth=0.8, zorder=0)
            axes.set(xlabel=f"{what},\ngap to retrained, points")
            axes.grid()
        panels[0].set(ylabel="retained accuracy,\nchange in points")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=7)

    height = 3 + 0.17 * math.ceil(len(names) / 3)
    return svg("frontier", "What is kept against what can still be read", height, paint)


def summary(results: dict[str, Any]) -> list[list[str]]:
    """A row for each model: by question `more of all`, over all requests."""
    names = dict.fromkeys(name for request in results["requests"].values() for name in request["models"])
    rows = []
    for model in (name for name in _ordered(names) if name != "retrained"):
        cells = []
        for question in _SHORT:
            found = [
                verdict(question, measure, request["models"]["retrained"]["measures"].get(question, {}).get(name))
                for request in results["requests"].values()
                if model in request["models"]
                for name, measure in request["models"][model]["measures"].get(question, {}).items()
            ]
            found = [one for one in found if one != NOTHING]
            cells.append(f"{sum(one == MORE for one in found)} of {len(found)}" if found else NOTHING)
        rows.append([_shown(results, model), *cells])
    return rows


def _shown(results: dict[str, Any], name: str) -> str:
    """A model's name, with the version of the method that was run."""
    options = [answer.get("options") for answer in results["methods"].get(name, {}).values()]
    return method_name(name, next(filter(None, options), None))


def _figures(results: dict[str, Any], models: dict[str, Any]) -> list[list[str]]:
    before = models["original"]["test_retain_accuracy"]
    rows = []
    for name in _ordered(models):
        model, measures = models[name], models[name]["measures"]
        retain = model["test_retain_accuracy"]
        change = "" if name == "original" else f" ({points(retain, before)})"
        rows.append(
            [
                _shown(results, name),
                percent(model["test_forget_accuracy"]),
                f"{percent(retain)}{change}",
                _cell(measures, "membership", "u_lira_auc"),
                _cell(measures, "probes", _probe_name(measures)),
                _cell(measures, "probes", "new_head_forget_accuracy", ends=False),
                _cell(measures, "relearning", _STEPS, ends=False),
                percent(_best(model)),
                percent(value_of(model, "recovery", _INVERSION)),
            ]
        )
    return rows


def _cell(measures: dict[str, Any], question: str, name: str, *, ends: bool = True) -> str:
    return shown(name, measures.get(question, {}).get(name), ends=ends)


def value_of(model: dict[str, Any], question: str, name: str) -> float | None:
    """The value of a measure; None where it was not measured or has no value."""
    return model["measures"].get(question, {}).get(name, {}).get("value")


def _probe_name(measures: dict[str, Any]) -> str:
    """The name of the linear probe on the input of the head, which is the last probe."""
    return next(reversed([name for name in measures.get("probes", {}) if name.startswith("linear_")]), "")


def linear_probe(model: dict[str, Any]) -> float | None:
    """Balanced accuracy of the linear probe on the input of the head."""
    return value_of(model, "probes", _probe_name(model["measures"]))


def new_head(model: dict[str, Any]) -> float | None:
    """Forget accuracy of a new last layer."""
    return value_of(model, "probes", "new_head_forget_accuracy")


def retain_accuracy(model: dict[str, Any]) -> float:
    """On test images of the other classes."""
    return model["test_retain_accuracy"]


def mean_gap(results: dict[str, Any], model: str, other: str, value: Value) -> float | None:
    """The mean over requests of `value` of `model` less that of `other`; None where no request has both."""
    asked = [request["models"] for request in results["requests"].values() if model in request["models"]]
    pairs = [(value(models[model]), value(models[other])) for models in asked]
    known = [mine - its for mine, its in pairs if None not in (mine, its)]
    return mean(known) if known else None


def _best(model: dict[str, Any]) -> float | None:
    """The highest forget accuracy after any attack."""
    recovery = model["measures"].get("recovery", {})
    values = [m["value"] for name, m in recovery.items() if name.endswith("forget_accuracy") and m["value"] is not None]
    return max(values, default=None)


def _ordered(names: Any) -> list[str]:
    """The original first, the retrained model last."""
    return sorted(names, key=lambda name: {"original": -1, "retrained": 1}.get(name, 0))


def _kept(model: dict[str, Any]) -> dict[str, Any]:
    accuracies = {key: value for key, value in model.items() if key.endswith("accuracy")}
    return {**accuracies, "measures": model["measures"]}
