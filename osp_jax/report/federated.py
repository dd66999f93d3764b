"""The pages of a federated study, from the JSON that `experiments.federated` writes: the images of each client, who
leaves, the results of the methods, and the traffic."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from osp_jax.report.formats import NOTHING, commit, markdown_table, markdown_text, percent
from osp_jax.report.pages import render
from osp_jax.report.svg import AFTER, MUTED, svg

Rows = list[list[str]]

_SPLITS = {"iid": "IID", "dirichlet": "Dirichlet", "classes": "Some classes each"}
_TITLES = {
    "class": "A class leaves",
    "client": "Clients leave",
    "sample": "Samples leave",
    "label-flip": "Attackers leave: swapped labels",
    "backdoor": "Attackers leave: backdoor",
}
_FORGOTTEN = {"class": "The class", "client": "Their images", "sample": "The samples"}
_MEANING = (
    "Accuracies: of a class on its test images; of clients and samples on the training images that leave; of an attack "
    "on the poisoned training images and on test images that it is aimed at, with the labels that the attackers want. "
    "'At once' is in front of the rounds of training that some methods go on with. Others are test images, "
    "without those of a class that leaves. The distance is the mean Jensen-Shannon divergence, in bits from 0 to 1, "
    "between the outputs of a model and those of the model retrained without what leaves, on the training images that "
    "leave. Sent are arrays without any encoding, to and by all clients together; the model that is given out in the "
    "end is not counted. Retraining is federated too: the same rounds and the same random numbers, without what leaves."
)


def federated_markdown(results: dict[str, Any]) -> str:
    """`table.md`."""
    parts = [f"# {_title(results)}", markdown_text(_setup(results)), markdown_text(_MEANING)]
    for split in results["held"]:
        parts.append(f"## {_split_title(results, split)}")
        parts.append(markdown_text(_held_words(results, split)))
        for scenario, tables, words in _scenarios(results, split):
            parts += [f"### {_TITLES[scenario]}", markdown_text(words)]
            parts += [markdown_table(rows[0], rows[1:]).rstrip() for rows in tables]
            parts += [markdown_text(line) for line in _failures(results, split, scenario)]
    settings = settings_table(results)
    parts += ["## Settings", markdown_text(_training(results)), markdown_table(settings[0], settings[1:]).rstrip()]
    parts.append(_made(results))
    return "\n\n".join(parts) + "\n"


def federated_html(results: dict[str, Any]) -> str:
    """`report.html`: self-contained."""
    splits = [
        {
            "heading": _split_title(results, split),
            "words": _held_words(results, split),
            "figure": holdings_figure(counts, results["dataset"]["class_names"], f"held-{split}"),
            "scenarios": [
                {
                    "heading": _TITLES[scenario],
                    "words": words,
                    "tables": tables,
                    "failures": list(_failures(results, split, scenario)),
                }
                for scenario, tables, words in _scenarios(results, split)
            ],
        }
        for split, counts in results["held"].items()
    ]
    return render(
        "federated.html",
        title=_title(results),
        setup=_setup(results),
        meaning=_MEANING,
        splits=splits,
        training=_training(results),
        settings=settings_table(results),
        made=_made(results),
    )


def holdings_figure(counts: list[list[int]], class_names: list[str], name: str) -> str:
    """The images of each client, as SVG: a dot for each client and class, its area the number of images.

    Args:
      counts: images `(clients, classes)`.
      name: makes the ids of the figure unique in a page.
    """
    held = np.asarray(counts)
    clients, classes = held.shape

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        rows, columns = np.nonzero(held)
        most = max(held.max(), 1)
        side = min(150.0, 9000.0 / max(clients, classes))
        axes.scatter(columns, rows, s=side * held[rows, columns] / most, color=AFTER, linewidths=0)
        axes.set(xlim=(-0.7, classes - 0.3), ylim=(clients - 0.3, -0.7), xlabel="class", ylabel="client")
        axes.set_title(f"Images by client and class; the largest dot is {most:,}", color=MUTED)
        shown = range(classes) if classes <= 20 else range(0, classes, -(-classes // 20))
        names = [" ".join(class_names[c].split())[:12] for c in shown]
        axes.set_xticks(list(shown), names, rotation=0 if max(map(len, names)) < 3 else 90)
        axes.set_yticks(list(range(0, clients, -(-clients // 20))))
        axes.grid()

    return svg(name, "Images by client and class", 1.1 + 0.24 * min(clients, 30), paint)


def accuracy_table(results: dict[str, Any], split: str, scenario: str) -> Rows:
    """Mean accuracies on what leaves and on the others, at once and after the rounds: a row for each model."""
    attacked = scenario not in _FORGOTTEN
    forgotten = _FORGOTTEN.get(scenario, "Poisoned images")
    rows = [["Model", f"{forgotten}, at once", "Others, at once", forgotten, "Others"]]
    rows[0] += ["Attacked test images"] if attacked else []
    for method, found in _cells(results, split, scenario).items():
        first, last = ([cell["after"][place] for cell in found if "error" not in cell] for place in (0, -1))
        names = ("forgotten", "others")
        once = [NOTHING] * 2 if method in _MODELS else [percent(_mean(first, name)) for name in names]
        row = [_name(method), *once, *(percent(_mean(last, name)) for name in names)]
        rows.append(row + ([percent(_mean(last, "attack"))] if attacked else []))
    return rows


def cost_table(results: dict[str, Any], split: str, scenario: str) -> Rows:
    """A row for each model: its final distance to the retrained one, its rounds, and its traffic."""
    rows = [["Model", "Distance to retrained", "on others", "Rounds", "Sent to clients", "Sent by clients"]]
    for method, found in _cells(results, split, scenario).items():
        known = [cell for cell in found if "error" not in cell]
        if not known:
            rows.append([method, *[NOTHING] * 2, "refused", *[NOTHING] * 2])
            continue
        last = [cell["after"][-1] for cell in known]
        row = [_name(method), *(_decimals(_mean(last, name)) for name in ("distance", "distance_others"))]
        sent = [_megabytes(float(np.mean([cell["traffic"][way] for cell in known]))) for way in ("down", "up")]
        rows.append([*row, str(known[0]["rounds"]), *sent])
    return rows


def summary_table(results: dict[str, Any]) -> Rows:
    """A row for each division and scenario: the accuracies of each model on what leaves and on the others."""
    methods = [m for m in dict.fromkeys(cell["method"] for cell in results["cells"]) if ":" not in m or m in _SHOWN]
    rows = [["Clients", "Who leaves", *map(_name, methods)]]
    for split in results["held"]:
        for scenario, *_ in _scenarios(results, split):
            cells = _cells(results, split, scenario)
            rows.append([_SPLITS[split], _TITLES[scenario], *(_both(cells.get(method, [])) for method in methods)])
    return rows


def attack_table(results: dict[str, Any]) -> Rows:
    """A row for each division and attack: its success on the attacked test images, by model and settings, after the
    rounds; empty without attackers."""
    attacks = [
        (split, scenario)
        for split in results["held"]
        for scenario, *_ in _scenarios(results, split)
        if scenario not in _FORGOTTEN
    ]
    methods = dict.fromkeys(method for given in attacks for method in _cells(results, *given))
    if not attacks:
        return []
    rows = [["Clients", "Who leaves", *map(_name, methods)]]
    for split, scenario in attacks:
        cells = _cells(results, split, scenario)
        last = [[one["after"][-1] for one in cells.get(method, []) if "error" not in one] for method in methods]
        rows.append([_SPLITS[split], _TITLES[scenario], *(percent(_mean(found, "attack")) for found in last)])
    return rows


def _both(cells: list[dict[str, Any]]) -> str:
    last = [cell["after"][-1] for cell in cells if "error" not in cell]
    return f"{percent(_mean(last, 'forgotten'))} / {percent(_mean(last, 'others'))}" if last else NOTHING


def settings_table(results: dict[str, Any]) -> Rows:
    """Each method with its settings as used, and a note."""
    found: dict[str, list[str]] = {}
    for cell in results["cells"]:
        if "settings" in cell:
            settings = ", ".join(f"{name}={value}" for name, value in cell["settings"].items())
            found.setdefault(cell["method"], [cell["method"], cell["note"] or NOTHING, settings or NOTHING])
    return [["Method", "Note", "Settings"], *found.values()]


_SHOWN = ("fedortho:layers=last",)  # beside the methods with their defaults
_MODELS = {"trained": "trained on all", "retrained": "retrained without it"}


def _name(method: str) -> str:
    return _MODELS.get(method, method)


def _cells(results: dict[str, Any], split: str, scenario: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for cell in results["cells"]:
        if (cell["split"], cell["scenario"]) == (split, scenario):
            found.setdefault(cell["method"], []).append(cell)
    return found


def _scenarios(results: dict[str, Any], split: str) -> Iterator[tuple[str, list[Rows], str]]:
    for scenario in results["config"]["scenarios"]:
        if _cells(results, split, scenario):
            tables = [table(results, split, scenario) for table in (accuracy_table, cost_table)]
            yield scenario, tables, _who_left(results, split, scenario)


def _failures(results: dict[str, Any], split: str, scenario: str) -> list[str]:
    found = _cells(results, split, scenario)
    return [f"{method}: {cell['error']}." for method, each in found.items() for cell in each if "error" in cell]


def _who_left(results: dict[str, Any], split: str, scenario: str) -> str:
    """Who leaves, with how many images, in words."""
    about, names = results["requests"][split][scenario], results["dataset"]["class_names"]
    images = f"{about['images']:,} of {about['of']:,} training images"
    clients = f"client{'s' if len(about['clients']) > 1 else ''} {', '.join(map(str, about['clients']))}"
    if about["classes"]:
        return f"Class {', '.join(names[c] for c in about['classes'])} leaves all clients: {images}."
    if attack := about["attack"]:
        how = (
            f"swapped the labels of {names[attack['first']]} and {names[attack['second']]}"
            if attack["kind"] == "label-flip"
            else f"marked images with a square of {attack['side']}x{attack['side']} pixels and called them "
            f"{names[attack['target']]}"
        )
        return f"{clients.capitalize()}, with {images}, {how} on {about['poisoned']:,} of them, and leave."
    if about["level"] == "sample":
        return f"A part of the images of {clients} leaves: {images}."
    return f"{clients.capitalize()} leave{'' if len(about['clients']) > 1 else 's'}: {images}."


def _held_words(results: dict[str, Any], split: str) -> str:
    counts = np.asarray(results["held"][split])
    each, classes = counts.sum(1), (counts > 0).sum(1)
    kinds = f"{classes.min()}" if classes.min() == classes.max() else f"{classes.min()} to {classes.max()}"
    return f"{len(counts)} clients hold from {each.min():,} to {each.max():,} training images of {kinds} classes."


def _title(results: dict[str, Any]) -> str:
    return f"{results['dataset']['variant']}, {results['model']['name']}: federated unlearning methods compared"


def _split_title(results: dict[str, Any], split: str) -> str:
    division = results["config"]["division"]
    more = {"dirichlet": f"({division['alpha']:g})", "classes": f": {division['classes']}"}
    return f"{_SPLITS[split]}{more.get(split, '')}, {division['clients']} clients"


def _setup(results: dict[str, Any]) -> str:
    config, seeds = results["config"], results["config"]["seeds"]
    return (
        f"{results['model']['parameters']:,} parameters, {config['training']['rounds']} rounds; "
        f"{results['dataset']['num_test']:,} test images; {len(seeds)} seed{'s' if len(seeds) > 1 else ''}; "
        f"{results['provenance']['device']}."
    )


def _training(results: dict[str, Any]) -> str:
    config = results["config"]
    training, fcot, recovery = config["training"], config["fcot"], config["recovery"]
    local = f"{training['steps']} local steps" if training["steps"] else f"{training['epochs']} local epoch(s)"
    first = f"{fcot['steps']} steps" if fcot["steps"] else f"{fcot['epochs']} epoch(s)"
    fusion = f"{fcot['fusion_steps']} steps" if fcot["fusion_steps"] else f"{fcot['fusion_epochs']} epoch(s)"
    return (
        f"{training['optimiser']}, learning rate {training['learning_rate']:g} ({training['rate']}), batches of "
        f"{training['batch_size']}. Classes, clients and samples leave models that FCOT trained (rebuilt from "
        f"secondary formulas): a round has an exchange of {first} with the penalty {fcot['penalty']} "
        f"{fcot['penalty_weight']:g} and one of {fusion} with a pull of {fcot['align']:g} to the round's mean, started "
        f"from the {fcot['fusion_start']} model. Attackers leave models that FedAvg trained, {local} a round. Up to "
        f"{recovery['rounds']} rounds without what left follow an edit. No setting was chosen on test images."
    )


def _made(results: dict[str, Any]) -> str:
    made = results["provenance"]
    versions = ", ".join(f"{name} {made['versions'][name]}" for name in ("jax", "flax", "optax"))
    return (
        f"Made by `{made['command']}` at commit {commit(made)}; {versions}, Python {made['python']}, {made['device']}."
    )


def _mean(rows: list[dict[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if row[name] is not None]
    return float(np.mean(values)) if values else None


def _decimals(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def _megabytes(size: float) -> str:
    if not size:
        return "0"
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"
