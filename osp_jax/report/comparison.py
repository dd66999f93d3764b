"""The pages of a comparison, from the JSON that `experiments.benchmark` writes: Markdown, LaTeX and HTML alike."""

from collections.abc import Callable, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np

from osp_jax.audit.measure import half_width
from osp_jax.report.formats import NOTHING, duration, markdown_table, markdown_text
from osp_jax.report.page import html_table
from osp_jax.report.skeleton import PAGE
from osp_jax.report.svg import AFTER, FORGOTTEN, svg

Rows = list[list[str]]

YARDSTICK, TIME_UNIT = "retrain", "osp"
ACCURACY = [
    "Method",
    "Forget accuracy",
    "worst",
    "Retained accuracy",
    "change, points",
    "Gap to retrain, forget",
    "retained",
]
COST = ["Method", "Images seen", "Cold", "Warm", f"Warm, times {TIME_UNIT}", "Extra memory"]
_MEANING = (
    "Accuracies are on test images, every output allowed; mean and 95% t-interval over the requests and seeds of a "
    "table. The change is to the original, the gap to the network retrained without the class, both in points. Images "
    "seen are different training images that a request read. Times run from the request to the new parameters on the "
    "device, the images and class statistics in memory: what was paid once while training (the statistics that osp, "
    "osp-fit and cdp read), the choice of settings and the audit are not in them. Cold is a method's first call, which "
    "compiled, with its default settings where settings were tuned; warm are calls that did not compile. Extra memory "
    "is what the process needed at its peak above the start of a call."
)


class Figure(NamedTuple):
    """Mean, and half the 95% interval (None for a single value), of `values`."""

    mean: float
    half: float | None
    values: list[float]


def figure_of(values: Sequence[float | None]) -> Figure | None:
    """None where there is no value."""
    known = [float(v) for v in values if v is not None]
    if not known:
        return None
    return Figure(float(np.mean(known)), half_width(known) if len(known) > 1 else None, known)


def summarise(results: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    """By method, the original first, over the requests of a kind.

    Figures `forget`, `retain` (fractions), `change`, `forget_gap`, `retain_gap` (points), `seen`, `cold`, `warm`
    (seconds), `ratio` (of the medians of warm times), `memory` (bytes), each None where unknown; `cells` and `errors`.
    """
    cells = [cell for cell in results["cells"] if cell["kind"] == kind]
    accuracy = {
        (c["seed"], c["request"], c["method"]): (
            c["accuracy"]["test_forget_accuracy"],
            c["accuracy"]["test_retain_accuracy"],
        )
        for c in cells
        if "accuracy" in c
    }

    def against(other: str, cell: dict[str, Any], side: int) -> float | None:
        mine, its = (accuracy.get((cell["seed"], cell["request"], method)) for method in (cell["method"], other))
        return 100 * (mine[side] - its[side]) if mine and its else None

    def summary(method: str) -> dict[str, Any]:
        own = [cell for cell in cells if cell["method"] == method]
        done = [cell for cell in own if "accuracy" in cell]
        seconds = [cell.get("seconds", {}) for cell in done]
        trials = results["tuning"].get(method, [])
        cold = [s.get("cold") for s in (*trials[:1], *seconds)]
        peaks = [part.get("peak_bytes") for part in (*trials, *done)]
        return {
            "forget": figure_of([cell["accuracy"]["test_forget_accuracy"] for cell in done]),
            "retain": figure_of([cell["accuracy"]["test_retain_accuracy"] for cell in done]),
            "change": figure_of([against("original", cell, 1) for cell in done]),
            "forget_gap": figure_of([against(YARDSTICK, cell, 0) for cell in done]),
            "retain_gap": figure_of([against(YARDSTICK, cell, 1) for cell in done]),
            "seen": figure_of([sum(cell["seen"].values()) if "seen" in cell else None for cell in done]),
            "cold": max((c for c in cold if c is not None), default=None),
            "warm": _median([s.get("warm") for s in seconds]),
            "memory": max((peak for peak in peaks if peak is not None), default=None),
            "cells": len(own),
            "errors": [f"{cell['request']}: {cell['error']}" for cell in own if "error" in cell],
        }

    methods = list(dict.fromkeys(cell["method"] for cell in cells))
    first = [m for m in ("original", *results["methods"]) if m in methods]
    found = {method: summary(method) for method in [*first, *(m for m in methods if m not in first)]}
    unit = found.get(TIME_UNIT, {}).get("warm")
    return {m: {**s, "ratio": s["warm"] / unit if s["warm"] and unit else None} for m, s in found.items()}


def kinds(results: dict[str, Any]) -> list[str]:
    """The groups of requests, single classes first."""
    found = dict.fromkeys(cell["kind"] for cell in results["cells"])
    return sorted(found, key=lambda kind: (kind != "single", kind))


def tables(results: dict[str, Any], kind: str) -> tuple[Rows, Rows]:
    """Accuracies and costs of one group of requests, a row a method, the header first."""
    accuracy, cost = [ACCURACY], [COST]
    for method, figures in summarise(results, kind).items():
        if figures["forget"] is None and figures["retain"] is None:
            accuracy.append([method, "failed", *[NOTHING] * (len(ACCURACY) - 2)])
            continue
        own = method in ("original", YARDSTICK)
        accuracy.append([
            method,
            _percent(figures["forget"]),
            f"{100 * max(figures['forget'].values):.2f}%" if figures["forget"] else NOTHING,
            _percent(figures["retain"]),
            NOTHING if method == "original" else _points(figures["change"]),
            NOTHING if own else _points(figures["forget_gap"]),
            NOTHING if own else _points(figures["retain_gap"]),
        ])  # fmt: skip
        if method != "original":
            cost.append([
                method,
                f"{figures['seen'].mean:,.0f}" if figures["seen"] else NOTHING,
                duration(figures["cold"]),
                duration(figures["warm"]),
                f"{figures['ratio']:,.{0 if figures['ratio'] >= 10 else 1}f}" if figures["ratio"] else NOTHING,
                f"{figures['memory'] / 1e6:,.0f} MB" if figures["memory"] is not None else NOTHING,
            ])  # fmt: skip
    return accuracy, cost


def failures(results: dict[str, Any], kind: str) -> list[str]:
    """A sentence for each method that failed on some request."""
    return [
        f"{method} failed on {len(s['errors'])} of {s['cells']} requests ({s['errors'][0]})."
        for method, s in summarise(results, kind).items()
        if s["errors"]
    ]


def settings(results: dict[str, Any]) -> Rows:
    """What each method ran with, how many settings were tried, and the score of the one chosen."""
    rows = [["Method", "Settings other than its defaults", "Tried", "Score of the defaults", "of the chosen"]]
    chosen = {cell["method"]: cell["options"] for cell in results["cells"] if "options" in cell}
    for method in [m for m in results["methods"] if m in chosen]:
        tried = results["tuning"].get(method, [])
        defaults = tried[0]["options"] if tried else chosen[method]
        changed = [f"{k}={v}" for k, v in chosen[method].items() if v != defaults.get(k)]
        scores = [trial.get("score") for trial in tried]
        best = [trial.get("score") for trial in tried if trial["options"] == chosen[method]]
        known = [f"{s:.4f}" if s is not None else "failed" for s in (*scores[:1], *best[:1])]
        rows.append([method, ", ".join(changed) or NOTHING, str(len(tried) or NOTHING), *(known or [NOTHING] * 2)])
    return rows


def comparison_markdown(results: dict[str, Any]) -> str:
    """`table.md`."""
    parts = [f"# {_title(results)}", markdown_text(_setup(results)), markdown_text(_MEANING)]
    for kind in kinds(results):
        parts.append(f"## {_heading(results, kind)}")
        parts += [markdown_table(rows[0], rows[1:]).rstrip() for rows in tables(results, kind)]
        parts += map(markdown_text, failures(results, kind))
    rows = settings(results)
    parts += [
        "## Settings",
        markdown_text(_tuning(results)),
        markdown_table(rows[0], rows[1:]).rstrip(),
        _made(results),
    ]
    return "\n\n".join(parts) + "\n"


def comparison_tex(results: dict[str, Any]) -> str:
    """`table.tex`: two booktabs tables a group of requests."""
    parts = [f"% {_made(results)}\n% \\usepackage{{booktabs}}"]
    for kind in kinds(results):
        for rows in tables(results, kind):
            body = [" & ".join(map(_tex, row)) + r" \\" for row in rows]
            caption = f"{_title(results)}. {_heading(results, kind)}. {_setup(results)}"
            parts += [
                rf"\begin{{table}}\caption{{{_tex(caption)}}}",
                rf"\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}",
                "\n".join([r"\toprule", body[0], r"\midrule", *body[1:], r"\bottomrule"]),
                "\\end{tabular}\n\\end{table}\n",
            ]
    return "\n".join(parts)


def comparison_html(results: dict[str, Any]) -> str:
    """`report.html`: self-contained."""
    title = escape(_title(results))
    body = [f"<header>\n<h1>{title}</h1>\n<p class=lead>{escape(_setup(results))}</p>\n</header>"]
    for number, kind in enumerate(kinds(results)):
        body.append(f"<section>\n<h2>{escape(_heading(results, kind))}</h2>\n<p>{escape(_MEANING)}</p>")
        drawn = "".join(f"<div>{figure}</div>\n" for figure in _figures(results, kind, number))
        body += [f"<figure>\n<div class=panels>\n{drawn}</div>\n</figure>", *map(html_table, tables(results, kind))]
        body += [f"<p>{escape(sentence)}</p>" for sentence in failures(results, kind)] + ["</section>"]
    body += [f"<section>\n<h2>Settings</h2>\n<p>{escape(_tuning(results))}</p>", html_table(settings(results))]
    body += ["</section>", f"<section>\n<h2>Provenance</h2>\n<p>{escape(_made(results))}</p>\n</section>"]
    return PAGE.substitute(title=title, body="\n".join(body))


def _figures(results: dict[str, Any], kind: str, number: int) -> list[str]:
    found = {m: s for m, s in summarise(results, kind).items() if s["forget"] or s["retain"]}

    def panel(name: str, label: str, value: Callable[[dict[str, Any]], Figure | None], **axis: Any) -> str:
        def paint(figure: Any) -> None:
            axes = figure.subplots()
            for row, (method, summary) in enumerate(found.items()):
                if shown := value(summary):
                    colour = FORGOTTEN if method == TIME_UNIT or method.startswith(f"{TIME_UNIT}-") else AFTER
                    axes.errorbar(shown.mean, row, xerr=shown.half, fmt="o", ms=4, color=colour, elinewidth=1)
            axes.set_yticks(range(len(found)), list(found))
            axes.set(ylim=(len(found) - 0.4, -0.6), xlabel=label, **axis)
            axes.grid(axis="x")
            if axis.get("xscale") == "log":
                axes.xaxis.set_major_formatter(lambda seconds, _: duration(seconds))
                axes.xaxis.set_minor_formatter(lambda *_: "")

        return svg(f"{name}{number}", label, 0.7 + 0.19 * len(found), paint)

    def scaled(figure: Figure | None) -> Figure | None:
        return figure and Figure(100 * figure.mean, figure.half and 100 * figure.half, figure.values)

    return [
        panel("forget", "forget accuracy, %", lambda s: scaled(s["forget"])),
        panel("retain", "retained accuracy, change in points", lambda s: s["change"]),
        panel("warm", "warm time", lambda s: s["warm"] and Figure(s["warm"], None, []), xscale="log"),
    ]


def _title(results: dict[str, Any]) -> str:
    return f"{results['dataset']['variant']}, {results['model']['name']}: unlearning methods compared"


def _heading(results: dict[str, Any], kind: str) -> str:
    requests = {(c["seed"], c["request"]): c["request"] for c in results["cells"] if c["kind"] == kind}
    names, seeds = list(dict.fromkeys(requests.values())), len({seed for seed, _ in requests})
    what = {"single": "Single classes"}.get(kind, kind.capitalize())
    shown = "; ".join(names[:12]) + ("; ..." if len(names) > 12 else "")
    return f"{what}: {shown} ({seeds} seed{'s' if seeds > 1 else ''})"


def _setup(results: dict[str, Any]) -> str:
    original = results["config"]["original"]
    return (
        f"{results['model']['parameters']:,} parameters, trained for {original['training']['epochs']} epochs; "
        f"{results['dataset']['num_test']:,} test images; {results['provenance']['device']}."
    )


def _tuning(results: dict[str, Any]) -> str:
    tuning, validation = results["config"]["tuning"], results["config"]["original"]["data"]["validation"]
    return (
        f"Up to {tuning['trials']} settings were tried for each method, its defaults first, on the first "
        f"{tuning['requests']} request(s) and the first seed. The score is retained accuracy times one minus forget "
        f"accuracy on the {validation:.0%} of the training images that no training saw; test images had no part in it."
    )


def _made(results: dict[str, Any]) -> str:
    made = results["provenance"]
    versions = ", ".join(f"{name} {made['versions'][name]}" for name in ("jax", "flax", "optax"))
    where = f"{versions}, Python {made['python']}, {made['device']}"
    return f"Made by `{made['command']}` at commit {made['commit'][:12]}; {where}."


def _median(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.median(known)) if known else None


def _percent(figure: Figure | None) -> str:
    if figure is None:
        return NOTHING
    return f"{100 * figure.mean:.2f}%" + ("" if figure.half is None else f" ± {100 * figure.half:.2f}")


def _points(figure: Figure | None) -> str:
    if figure is None:
        return NOTHING
    return f"{figure.mean:+z.2f}" + ("" if figure.half is None else f" ± {figure.half:.2f}")


def _tex(text: str) -> str:
    for plain, tex in (
        ("\\", r"\textbackslash{}"),
        ("%", r"\%"),
        ("_", r"\_"),
        ("&", r"\&"),
        ("#", r"\#"),
        ("±", r"$\pm$"),
    ):
        text = text.replace(plain, tex)
    return text.replace("µ", r"\textmu{}").replace(NOTHING, "--")
