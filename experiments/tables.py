"""Rewrites the generated parts of README.md and docs/ from the committed results.

python -m experiments.tables          # rewrites
python -m experiments.tables --check  # exit code 2 if something is out of date

A generated part stands between `<!-- begin NAME -->` and `<!-- end NAME -->`.
"""

import dataclasses
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli

_CHECK = flags.DEFINE_bool("check", False, "write nothing; exit with code 2 if a part is out of date")
_ROOT = Path(__file__).parents[1]
# Files of results/performance; a part of the same name shows each.
_BENCHMARKS = (
    "evaluate_all",
    "throughput",
    "gradients",
    "profile",
    "statistics_pass",
    "depthwise",
    "startup",
    "scaling",
    "collectives",
)
# Comparisons on texts in results/benchmark; the parts NAME and token_edits_NAME show each.
_TEXTS = ("medical_abstracts", "newsgroups")
_MISSING = "Not measured yet."
_DOCUMENTS = (
    "README.md",
    "docs/exact.md",
    "docs/federated.md",
    "docs/findings.md",
    "docs/methods.md",
    "docs/performance.md",
    "docs/pods.md",
    "docs/reliability.md",
    "docs/results.md",
    "docs/text.md",
    "results/brought/table.md",
    "results/prepared/table.md",
)


def main() -> None:
    from osp_jax.runtime.errors import InputError
    from osp_jax.runtime.workdir import write_text

    for name in _DOCUMENTS:
        path = _ROOT / name
        old = path.read_text(encoding="utf-8")
        new = fill_in(old, PARTS)
        if new != old and _CHECK.value:
            raise InputError(f"{name} is out of date; run python -m experiments.tables")
        if new != old:
            write_text(path, new)
            print(f"rewrote {name}")


def fill_in(text: str, parts: dict[str, Callable[[], str]]) -> str:
    """`text` with each marked part replaced by what its function returns."""

    def replaced(match: re.Match) -> str:
        name = match.group(1)
        return f"<!-- begin {name} -->\n{parts[name]().strip()}\n<!-- end {name} -->"

    return re.sub(r"<!-- begin (\w+) -->\n(?:.*?\n)??<!-- end \1 -->", replaced, text, flags=re.DOTALL)


def _latency() -> str:
    from osp_jax.report.tables import markdown_table

    results = _read("results/latency_cpu.json")
    header = ["Masked", "Channels", "Warm median", "Warm p99", "Cold", "Floor", "Dispatch"]
    names = {"last": "last features", "all": "all layers"}
    rows = [
        [
            names.get(row["layers"], "last stage") + (", weights erased" if row["erase"] else ""),
            f"{row['channels']:,}",
            *(f"{row[f'{which} ms']:.2f} ms" for which in ("warm median", "warm p99", "cold", "floor", "dispatch")),
        ]
        for row in results["rows"]
    ]
    return (
        "Time from the request to the new parameters: `osp` on ResNet-18 (11.2 million parameters, random weights), "
        f"statistics collected beforehand, on {results['provenance']['device']} "
        f"(`{results['provenance']['command']}`). Floor: the bytes touched, divided by the memory bandwidth that the "
        "same process measures. Dispatch: the time of "
        "a JAX call with the same number of arrays and nearly no computation.\n\n" + markdown_table(header, rows)
    )


def _selection(folder: str) -> str:
    from osp_jax.methods import get_method
    from osp_jax.report.sweep import summary_header, sweep_summary
    from osp_jax.report.tables import markdown_table

    rows = []
    for path in sorted((_ROOT / folder).glob("*/results.json")):
        results = _read(path)
        for method, *figures in sweep_summary(results):
            default = dataclasses.asdict(get_method(method)())
            chosen = results["options"][method]
            changed = [f"{name}={chosen[name]}" for name in default if chosen.get(name, default[name]) != default[name]]
            rows.append([method, ", ".join(changed) or "the default", *figures[:4], *figures[5:]])
    header = summary_header(results)
    table = markdown_table(["Method", "Options", *header[1:5], *header[6:]], sorted(rows))
    model, config = results["model"], results["training"]["config"]
    judged = "test" if results["split"] == "test" else "held-out training"
    return (
        f"Mean and worst over the ten classes, {results['num_images']:,} {judged} images; {model['name']} of "
        f"width {config['model']['width']} ({model['parameters']:,} parameters) after "
        f"{config['training']['epochs']} epochs.\n\n{table}"
    )


def _audit() -> str:
    from osp_jax.report.audits import MEANS, means
    from osp_jax.report.tables import markdown_table

    results = _found(_SHADOWED)
    if results is None:
        return _MISSING
    shadows = results["audit"]["settings"]["shadow models"]["number"]
    return (
        f"{results['dataset']['variant']}, {results['model']['name']} with {results['model']['parameters']:,} "
        f"parameters. Means over the classes {', '.join(results['requests'])}; {shadows} shadow models with and "
        f"{shadows} without each class. Changes are in points against the original, gaps in points against the "
        "model retrained without the class:\n\n" + markdown_table(MEANS, means(results))
    )


_SHADOWED = "results/audit/results.json"
_AREA = "U-LiRA, AUC"
_COMPARISON = "results/benchmark/cifar10_resnet20/results.json"
_PREPARED = "results/prepared/cifar10_resnet20.json"
_RANKED = (
    "Forgotten: test accuracy on the class. Others: change of the accuracy on the other classes in points. Both are "
    "means, with the worst request in brackets. Gaps to the retrained network in points; relearning as a share of its "
    "steps."
)


def _headline() -> str:
    """The README's first figure: the recommended method beside retraining."""
    from osp_jax.report.comparison_tables import YARDSTICK, summarise
    from osp_jax.report.formats import duration

    results = _found(_COMPARISON)
    if results is None:
        return _MISSING
    found = summarise(results, "single")
    ours, retrained = found[_RECOMMENDED], found[YARDSTICK]
    return (
        f"On {_data_words(results['dataset']['variant'])} with {_title(results['model']['name'])} "
        f"({_requests_of(results)}), "
        f"`{_RECOMMENDED}` takes the accuracy on the forgotten class from {found['original']['forget'].mean:.1%} to "
        f"{ours['forget'].mean:.1%} in {duration(ours['warm'])} on one CPU core, and changes the accuracy on the other "
        f"classes by {ours['change'].mean:+z.1f} points. Retraining without the class, the target, takes "
        f"{duration(retrained['cold'])} and gives {retrained['forget'].mean:.1%} and "
        f"{retrained['change'].mean:+z.1f} points. A new head finds the class {ours['head'].mean:z.1f} points "
        "more often than in the retrained network."
    )


def _title(network: str) -> str:
    """`resnet20` as `ResNet-20`."""
    return re.sub(r"^resnet(\d+)$", r"ResNet-\1", network)


def _method_summary() -> str:
    """The README's line for each method: its paper, what it needs, and its figures in the comparison."""
    from osp_jax.methods import METHODS
    from osp_jax.report.comparison_tables import YARDSTICK, summarise
    from osp_jax.report.formats import NOTHING
    from osp_jax.report.method_facts import method_facts
    from osp_jax.report.ranking import ranked
    from osp_jax.report.tables import markdown_table

    results = _found(_COMPARISON)
    if results is None:
        return _MISSING
    found = summarise(results, "single")
    compared = [YARDSTICK, *ranked(found)]
    rows, papers = [], {}
    for name in [*compared, *(name for name in METHODS if name not in compared)]:
        figures = found.get(name)
        facts = method_facts(name)
        cells = [NOTHING] * 4
        if figures is not None and figures["forget"] is not None:
            cells = [
                f"{figures['forget'].mean:.1%}",
                f"{figures['change'].mean:+z.1f}",
                NOTHING if figures["head"] is None or name == YARDSTICK else f"{figures['head'].mean:+z.1f}",
                _seconds(figures["cold"] if name == YARDSTICK else figures["warm"]),
            ]
        papers[name] = facts.papers[0] if facts.papers else ""
        rows.append([name, facts.images, "yes" if facts.descends else "no", *cells])
    header = ["Method", "Images", "Gradients", "Forgotten", "Others", "New head", "Seconds"]
    table = markdown_table(header, rows)
    for name, paper in papers.items():
        if paper:
            table = table.replace(f"\n| {name} |", f"\n| [{name}](https://arxiv.org/abs/{paper}) |")
    config = results["config"]
    return (
        f"{_data_words(results['dataset']['variant'])}, {_title(results['model']['name'])}; {_requests_of(results)}; "
        f"{config['budget']['retain']} training images of each class for a request, {config['tuning']['trials']} "
        f"settings a method:\n\n{table}"
    )


def _seconds(value: float) -> str:
    """Two digits, or whole seconds."""
    return f"{value:,.0f}" if value >= 10 else f"{float(f'{value:.2g}')}"


def _comparison() -> str:
    from osp_jax.report.comparison_tables import failures
    from osp_jax.report.deviations import DEVIATIONS
    from osp_jax.report.ranking import DIFFERS, HEADER, ranked_rows
    from osp_jax.report.tables import markdown_table

    results = _found(_COMPARISON)
    if results is None:
        return _MISSING
    rows = ranked_rows(results, _prepared(), differences=True)
    sentences = failures(results, "single")
    if missing := [f"`{name}`" for name in DEVIATIONS if name not in {cell["method"] for cell in results["cells"]}]:
        sentences.append(f"Not compared: {', '.join(missing)}.")
    left = "".join(f"\n{sentence}\n" for sentence in sentences)
    return f"{_compared(results)} {_RANKED}\n\n{markdown_table([*HEADER, DIFFERS], rows)}{left}"


def _requests_of(results: Any) -> str:
    """As `cat, dog; 2 seeds`."""
    classes = ", ".join(dict.fromkeys(cell["request"] for cell in results["cells"]))
    seeds = len({cell["seed"] for cell in results["cells"]})
    return f"{classes}; {seeds} seed{'s' if seeds > 1 else ''}"


def _compared(results: Any) -> str:
    """What a comparison is of, in a sentence."""
    config, model = results["config"], results["model"]
    data, requests = _data_words(results["dataset"]["variant"]), _requests_of(results)
    return (
        f"{data}, {model['name']} ({model['parameters']:,} parameters); {requests}. A request may "
        f"see {config['budget']['retain']} training images of each class. Up to {config['tuning']['trials']} settings "
        "a method, chosen on held-out images."
    )


def _prepared() -> dict[str, float]:
    from osp_jax.report.targets import prepared_seconds

    return prepared_seconds(_found(_PREPARED))


def _networks() -> dict[str, Any]:
    from osp_jax.report.targets import Network

    return {
        "CIFAR-10": Network(
            sweep="results/paper/cifar10_resnet20/sweep/results.json",
            comparison=_COMPARISON,
            audit="results/paper/cifar10_resnet20/audit/results.json",
            lira=_SHADOWED,
            exact="results/exact/cifar10.json",
            prepared=_PREPARED,
            to_retrained=-0.5,
            readable=2.0,
            seconds=2.0,
        ),
        "CIFAR-100": Network(
            sweep="results/paper/cifar100_cifarnet/sweep/results.json",
            comparison="results/benchmark/cifar100_cifarnet/results.json",
            audit="results/paper/cifar100_cifarnet/audit/results.json",
            lira="",
            exact="results/exact/cifar100.json",
            prepared="results/prepared/cifar100_cifarnet.json",
            to_retrained=-1.0,
            readable=3.0,
            seconds=5.0,
        ),
    }


_RECOMMENDED = "concept-erasure"


def _targets() -> str:
    from osp_jax.report.tables import markdown_table
    from osp_jax.report.targets import HEADER, target_rows

    parts = [f"Targets of `{_RECOMMENDED}`, and of exact heads:"]
    for name, network in _networks().items():
        files = [file for file in network[:6] if file]
        results = {file: found for file in files if (found := _found(file)) is not None}
        rows = target_rows(network, results, _RECOMMENDED)
        compared = results.get(network.comparison)
        about = [_swept_of(results[network.sweep])] if network.sweep in results else []
        about += [f"gaps to retrained are means over {_requests_of(compared)}"] if compared else []
        over = f" ({'; '.join(about)})" if about else ""
        parts.append(f"**{name}**{over}\n\n{markdown_table(HEADER, rows).rstrip()}")
    return "\n\n".join(parts)


def _swept_of(sweep: dict[str, Any]) -> str:
    """As `cifarnet with 1,996,316 parameters, 10 of 100 classes in turn`."""
    model = sweep["model"]
    return f"{model['name']} with {model['parameters']:,} parameters, {_classes_of(sweep)} in turn"


def _classes_of(sweep: dict[str, Any]) -> str:
    number, known = len(sweep["classes"]), len(sweep["dataset"]["class_names"])
    return f"{number} of {known} classes" if number < known else "each class"


def _orthogonality() -> str:
    from osp_jax.report.orthogonality import HEADER, orthogonality_rows
    from osp_jax.report.tables import markdown_table

    results = _found("results/orthogonality/results.json")
    if results is None:
        return _MISSING
    first = results["models"][0]
    return (
        f"{results['dataset']['variant']}, {first['model']['name']} with {first['model']['parameters']:,} parameters, "
        "the trade-off on held-out training images, mean over all classes forgotten in turn:\n\n"
        + markdown_table(HEADER, orthogonality_rows(results))
        + "\n![trade-off](../results/orthogonality/tradeoff.svg)\n"
    )


def _paper() -> str:
    from configs.paper.default import get_config
    from osp_jax.report.paper import HEADER, paper_rows
    from osp_jax.report.tables import markdown_table

    config, folder = get_config(), "results/paper"
    results = {
        entry: {kind: _found(f"{folder}/{entry}/{kind}/results.json") for kind in ("sweep", "audit")}
        for entry in config.entries
    }
    ran = [entry for entry, found in results.items() if found["sweep"]]
    missing = ", ".join(f"`{entry}`" for entry in results if entry not in ran)
    left = f"Not run: {missing}." if missing else ""
    if not ran:
        return left
    audited = [f"{entry}: {', '.join(results[entry]['audit']['requests'])}" for entry in ran if results[entry]["audit"]]
    turns = "; ".join(f"{entry}: {_classes_of(results[entry]['sweep'])}" for entry in ran)
    return (
        f"Test images; classes are forgotten in turn ({turns}). Changes of the accuracy on the other classes are in "
        "points against the original. 'Others, to retrained' and the gaps are means over the audited classes "
        f"({'; '.join(audited) or 'none yet'}), in points against the retrained model; for U-LiRA, a difference "
        "of areas.\n\n" + markdown_table(HEADER, paper_rows(ran, results, config.methods)) + f"\n{left}"
    )


def _trainings() -> str:
    from osp_jax.report.tables import markdown_table

    results = _found("results/trainings.json")
    if results is None:
        return _MISSING
    header = ("Config", "Training", "Epochs", "Hours", "expected", "Held-out accuracy", "Test accuracy", "expected")
    rows = [
        (
            row["config"],
            row["training"],
            str(row["epochs"]),
            f"{row['hours']:.2f}",
            f"{row['hours expected']:.2f}",
            f"{row['held-out accuracy']:.1%}",
            f"{row['test accuracy']:.2%}",
            # What a config expects is that of all classes.
            "-" if row["without"] != "nothing" else f"{row['test accuracy expected']:.1%}",
        )
        for row in results["rows"]
    ]
    return markdown_table(header, rows)


def _benchmark(name: str) -> str:
    """The rows of a benchmark as they are, with what they were measured on."""
    from osp_jax.report.tables import markdown_table

    results = _found(f"results/performance/{name}.json")
    if results is None:
        return _MISSING
    header = list(results["rows"][0])
    rows = [[_cell(row[column]) for column in header] for row in results["rows"]]
    made = results["provenance"]
    return f"On {made['device']}, `{made['command']}`:\n\n" + markdown_table(header, rows)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float) and abs(value) < 100:
        return f"{value:.3g}"
    return f"{value:,.0f}" if isinstance(value, int | float) else str(value)


def _reliability() -> str:
    from benchmarks.faults.summary import markdown

    results = _found("results/reliability.json")
    return _MISSING if results is None else markdown(results)


def _brought() -> str:
    from benchmarks.brought.table import markdown

    results = _found("results/brought/results.json")
    return _MISSING if results is None else markdown(results)


def _prepared_requests() -> str:
    from benchmarks.prepared_table import summary

    found = _prepared_results()
    return summary(found) if found else _MISSING


def _prepared_sets() -> str:
    from benchmarks.prepared_table import sets_and_commands

    found = _prepared_results()
    return sets_and_commands(found) if found else _MISSING


def _prepared_results() -> list[Any]:
    return [_read(path) for path in sorted((_ROOT / "results/prepared").glob("*.json"))]


def _exact() -> str:
    from benchmarks.exact_table import markdown

    found = [_read(path) for path in sorted((_ROOT / "results/exact").glob("*.json"))]
    found = [results for results in found if "seconds" in results]  # others are not measured yet
    return markdown(found) if found else _MISSING


def _text_comparison(folder: str) -> str:
    from benchmarks.text_tables import comparison

    return comparison(*(_read(f"{folder}/{name}.json") for name in ("results", "tfidf")))


def _token_edits(folder: str) -> str:
    from benchmarks.text_tables import token_edits

    return token_edits(_read(f"{folder}/token_edits.json"))


def _federated() -> str:
    from osp_jax.report.federated import attack_table, summary_table
    from osp_jax.report.tables import markdown_table

    parts = []
    for path in sorted((_ROOT / "results/federated").glob("*/results.json")):
        results = _read(path)
        rows, name = summary_table(results), path.parent.name
        title = f"{results['dataset']['variant']}, {results['model']['name']}"
        parts.append(
            f"{title} ([all figures](../results/federated/{name}/table.md)):\n\n{markdown_table(rows[0], rows[1:])}"
        )
        if rows := attack_table(results):
            words = "Success of the attack on test images that it is aimed at, after the rounds:"
            parts.append(f"{words}\n\n{markdown_table(rows[0], rows[1:])}")
    return "\n".join(parts) or _MISSING


_BROUGHT = {
    "resnet": "ResNet (Flax)",
    "densenet": "DenseNet (Flax)",
    "resnet20": "ResNet-20 (PyTorch)",
    "resnet32": "ResNet-32 (PyTorch)",
    "vit": "ViT (PyTorch)",
}


def _brought_summary() -> str:
    """The README's table: the default method on networks of other people."""
    from benchmarks.brought.table import rows
    from osp_jax.report.tables import markdown_table

    results = _read("results/brought/results.json")
    table = []
    for network, method, mean, worst, change, lowest, _, _, seconds in rows(results["rows"]):
        if method == "osp-fit":
            accuracy = f"{results['networks'][network]['accuracy']:.1%}"
            cells = [f"{mean}% ({worst}%)", f"{change} ({lowest})", f"{seconds} s"]
            table.append([_BROUGHT.get(network, network), accuracy, *cells])
    return (
        f"`osp-fit` on {_data_words(results['dataset'])} networks of other people, {results['test_images']:,} test "
        "images, each class forgotten in turn; means, with the worst class in brackets:\n\n"
        + markdown_table(["Network", "Test accuracy", "Forgotten class", "Others, points", "Request"], table)
    )


def _data_words(variant: str) -> str:
    """`cifar10 3.0.2 (WEBP, 32x32)` as `CIFAR-10`; copies in JPEG, which loses detail, are named."""
    name, encoding = re.fullmatch(r"(\w+) [\d.]+ \((\w+), \w+\)", variant).groups()
    titles = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "tiny_imagenet": "Tiny ImageNet"}
    return titles.get(name, name) + (" (JPEG copies)" if encoding == "JPEG" else "")


def _audit_summary() -> str:
    from osp_jax.report.audits import MEANS, means

    title = "- **No audited method erases a class as retraining does.**"
    results = _found(_SHADOWED)
    if results is None:
        return f"{title} The audit shows what each leaves behind."
    found = [dict(zip(MEANS, row, strict=True)) for row in means(results)]
    retrained = next(row for row in found if row["Model"] == "retrained")
    rows = [row for row in found if row["Model"] not in ("original", "retrained")]
    first, *others = sorted(rows, key=lambda row: float(row[_AREA]))
    return (
        f"{title} U-LiRA's AUC: {first[_AREA]} for `{first['Model']}`, {others[0][_AREA]} to {others[-1][_AREA]} "
        f"for {len(others)} others; retraining: {retrained[_AREA]}."
    )


def _methods() -> str:
    from osp_jax.report.method_facts import all_methods
    from osp_jax.report.tables import markdown_table

    rows = [[facts.name, facts.title, facts.images] for facts in all_methods()]
    return markdown_table(["Method", "What it does", "Images at request time"], rows)


def _read(name: Any) -> Any:
    from osp_jax.runtime.workdir import read_json

    return read_json(_ROOT / name)


def _depth() -> str:
    from benchmarks.depth_table import markdown

    found = [_read(path) for path in sorted((_ROOT / "results/depth").glob("*.json"))]
    return markdown(found) if found else _MISSING


def _found(name: str) -> Any:
    """The results of a file, or None where these have not been measured."""
    return _read(name) if (_ROOT / name).exists() else None


PARTS: dict[str, Callable[[], str]] = {
    "audit": _audit,
    "audit_summary": _audit_summary,
    "brought": _brought,
    "brought_summary": _brought_summary,
    "comparison": _comparison,
    "depth": _depth,
    "exact": _exact,
    "headline": _headline,
    "federated": _federated,
    "targets": _targets,
    "latency": _latency,
    "method_summary": _method_summary,
    "methods": _methods,
    "erasure_digits": partial(_selection, "results/erasure_digits"),
    "orthogonality": _orthogonality,
    "paper": _paper,
    "prepared": _prepared_requests,
    "prepared_sets": _prepared_sets,
    "reliability": _reliability,
    "trainings": _trainings,
    **{name: partial(_benchmark, name) for name in _BENCHMARKS},
    **{name: partial(_text_comparison, f"results/benchmark/{name}") for name in _TEXTS},
    **{f"token_edits_{name}": partial(_token_edits, f"results/benchmark/{name}") for name in _TEXTS},
}


if __name__ == "__main__":
    cli.run(main, computes=False)
