"""The pages of a comparison in Markdown, LaTeX and HTML, from the JSON that `experiments.benchmark` writes."""

from collections.abc import Callable
from typing import Any

from osp_jax.report.comparison_tables import (
    TIME_UNIT,
    Figure,
    asked_inside,
    failures,
    kinds,
    settings,
    summarise,
    tables,
)
from osp_jax.report.formats import NOTHING, commit, duration, markdown_table, markdown_text
from osp_jax.report.nouns import noun
from osp_jax.report.pages import render
from osp_jax.report.svg import AFTER, FORGOTTEN, svg

_MEANING = (
    "Accuracies are on test {image}s, every output allowed; mean and 95% t-interval over the requests and seeds of a "
    "table. The change is to the original, the gap to the network retrained without the class, both in points. "
    "{Image}s seen are different training {image}s that a request read. Times run from the request to the new "
    "parameters on the device, the {image}s and class statistics in memory: what was paid once while training (the "
    "statistics that osp, osp-fit and cdp read), the choice of settings and the audit are not in them. Cold is a "
    "method's first call, which compiled, with its default settings where settings were tuned; warm are calls that did "
    "not compile. Extra memory is what the process needed at its peak above the start of a call."
)
_INSIDE = (
    "Membership: area under the ROC curve of a classifier that tells forgotten training {image}s from unseen "
    "{image}s of the class. Probe: balanced accuracy of a linear classifier of the last features. New head: accuracy "
    "on the class of a head that is fitted anew to all classes. Their gaps are in points to the retrained network. "
    "Relearning: steps, of 32 {image}s each from 50 of each class, until half of the original's accuracy on the class "
    "is back; the median, and the mean share of the retrained network's steps, 1 at most. The average gap is the mean "
    "size of the gaps of both accuracies, membership, probe and new head."
)


def comparison_markdown(results: dict[str, Any]) -> str:
    """`table.md`."""
    parts = [f"# {_title(results)}", markdown_text(_setup(results)), markdown_text(_meaning(results))]
    for kind in kinds(results):
        parts.append(f"## {_heading(results, kind)}")
        parts += [markdown_text(_inside(results))] if asked_inside(results) else []
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
    """`table.tex`: two booktabs tables for each group of requests."""
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
    groups = [
        {
            "heading": _heading(results, kind),
            "words": [_meaning(results), *([_inside(results)] if asked_inside(results) else [])],
            "figures": method_figures(results, kind, number),
            "tables": tables(results, kind),
            "failures": failures(results, kind),
        }
        for number, kind in enumerate(kinds(results))
    ]
    return render(
        "comparison.html",
        title=_title(results),
        setup=_setup(results),
        groups=groups,
        training=_tuning(results),
        settings=settings(results),
        made=_made(results),
    )


def method_figures(results: dict[str, Any], kind: str, number: int) -> list[str]:
    """Draws the accuracy on the forgotten classes, the change on the others and the warm time of each method, as SVG.

    Args:
      kind: of the requests, one of `kinds(results)`.
      number: keeps the ids of several figures in one page apart.
    """
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


def _meaning(results: dict[str, Any]) -> str:
    kind = noun(results)
    return _MEANING.format(image=kind, Image=kind.capitalize())


def _inside(results: dict[str, Any]) -> str:
    return _INSIDE.format(image=noun(results))


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
        f"test {noun(results)}s: {_test_images(results)}; {results['provenance']['device']}."
    )


def _test_images(results: dict[str, Any]) -> str:
    some = results["config"]["audit"].get("test_images")
    return f"all of the forgotten class, {some} of each other class" if some else f"{results['dataset']['num_test']:,}"


def _tuning(results: dict[str, Any]) -> str:
    tuning, validation = results["config"]["tuning"], results["config"]["original"]["data"]["validation"]
    return (
        f"Up to {tuning['trials']} settings were tried for each method, its defaults first, on the first "
        f"{tuning['requests']} request(s) and the first seed. The score is retained accuracy times one minus forget "
        f"accuracy on {tuning.get('images') or 'all'} of the {validation:.0%} of the training {noun(results)}s that no "
        f"training saw; test {noun(results)}s had no part in it."
    )


def _made(results: dict[str, Any]) -> str:
    made = results["provenance"]
    versions = ", ".join(f"{name} {made['versions'][name]}" for name in ("jax", "flax", "optax"))
    where = f"{versions}, Python {made['python']}, {made['device']}"
    return f"Made by `{made['command']}` at commit {commit(made)}; {where}."


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
