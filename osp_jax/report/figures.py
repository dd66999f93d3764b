"""The report's figures, each a pure function of the evaluation that returns SVG text."""

from typing import Any

import numpy as np

from osp_jax.report.formats import percent
from osp_jax.report.nouns import noun
from osp_jax.report.svg import AFTER, BEFORE, FORGOTTEN, INK, MUTED, svg
from osp_jax.report.tables import MODELS, MOST_CLASSES, class_name, retained, shown_classes

MOST_PANELS, MOST_DESTINATIONS = 12, 6


def _short(evaluation: dict[str, Any], index: int | str, most: int = 20) -> str:
    name = " ".join(class_name(evaluation, index).split())
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _numbers(values: list[float | None]) -> np.ndarray:
    return np.array(values, dtype=float)


def _highlight(labels: list[Any], forgotten: list[bool]) -> None:
    for label, gone in zip(labels, forgotten, strict=True):
        label.set(color=FORGOTTEN, fontweight="bold") if gone else None


def per_class(evaluation: dict[str, Any]) -> str:
    """Test accuracy of each class before and after; of many, those that changed most, and all of them in one strip."""
    shown, total = shown_classes(evaluation), len(evaluation["original"]["per_class"])
    strip = 1.7 if total > MOST_CLASSES else 0

    def paint(figure: Any) -> None:
        heights = [0.7 + 0.26 * len(shown), strip] if strip else [1]
        axes = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        _class_bars(axes[0], evaluation, shown)
        if strip:
            _class_strip(axes[1], evaluation)

    return svg("classes", "Test accuracy of each class", 0.8 + 0.26 * len(shown) + strip, paint)


def _class_bars(axes: Any, evaluation: dict[str, Any], shown: list[int]) -> None:
    found = [(key, evaluation[key]) for key in ("original", "unlearned") if evaluation.get(key)]
    gone, rows, thick = [index in evaluation["forget"] for index in shown], np.arange(len(shown)), 0.8 / len(found)
    for place, (key, model) in enumerate(found):
        values = 100 * np.nan_to_num(_numbers([model["per_class"][index] for index in shown]))
        colours = [FORGOTTEN if forgotten else AFTER for forgotten in gone] if place else BEFORE
        offset = (place - (len(found) - 1) / 2) * thick
        axes.barh(rows + offset, values, thick, color=colours)
        axes.barh([-9], [0], color=AFTER if place else BEFORE, label=MODELS[key])
    if any(gone) and len(found) > 1:
        axes.barh([-9], [0], color=FORGOTTEN, label="Unlearned, forgotten class")
    axes.set(xlim=(0, 100), ylim=(len(shown) - 0.4, -0.6), xlabel="test accuracy, %")
    axes.set_yticks(rows, [_short(evaluation, index) for index in shown])
    _highlight(axes.get_yticklabels(), gone)
    axes.grid(axis="x")
    axes.spines["bottom"].set_visible(False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderpad=0, handlelength=1, columnspacing=1.2)


def _class_strip(axes: Any, evaluation: dict[str, Any]) -> None:
    others = retained(evaluation)
    values = 100 * _numbers([evaluation["original"]["per_class"][index] for index in others])
    label = "test accuracy, %"
    if evaluation.get("unlearned"):
        values = 100 * _numbers([evaluation["unlearned"]["per_class"][index] for index in others]) - values
        label = "change, points"
    values = np.sort(values[~np.isnan(values)])
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.plot(values, ".", color=AFTER, markersize=4)
    axes.set(xlabel=f"the {len(values)} retained classes, sorted", ylabel=label, xticks=[])
    axes.grid(axis="y")


def _apart(places: list[int], gap: float) -> list[int]:
    """The places whose labels do not overlap."""
    kept: list[int] = []
    for place in sorted(places):
        kept += [place] if not kept or place - kept[-1] >= gap else []
    return kept


def confusion(evaluation: dict[str, Any], which: str) -> str:
    """One model's confusion matrix: the share of each true class's test images that gets each answer."""
    counts = np.array(evaluation[which]["confusion"], dtype=float)
    classes, forget = len(counts), evaluation["forget"]

    def paint(figure: Any) -> None:
        from matplotlib.colors import LinearSegmentedColormap, PowerNorm, to_rgba

        axes = figure.subplots()
        share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        # From clear to solid, so that the page's own background shows through; the square root shows rare errors too.
        colours = LinearSegmentedColormap.from_list("solid", [to_rgba("#1f83c4", 0), to_rgba("#1f83c4", 1)])
        axes.imshow(share, cmap=colours, norm=PowerNorm(0.5, 0, 1), interpolation="none")
        axes.set(title=MODELS[which], xlabel="answer", ylabel="true class")
        axes.spines[:].set_visible(True)
        if classes <= 12:
            for true, answer in zip(*np.nonzero(counts), strict=True):
                colour = "white" if share[true, answer] > 0.35 else INK
                size = 8 if counts.max() < 1000 else 6
                label = f"{counts[true, answer]:.0f}"
                axes.text(answer, true, label, ha="center", va="center", color=colour, fontsize=size)
        ticks = list(range(classes)) if classes <= MOST_CLASSES else _apart(forget, classes / 25)
        names = [_short(evaluation, index, 12) for index in ticks]
        axes.set_xticks(ticks, names, rotation=0 if max(map(len, names), default=0) < 3 else 90)
        axes.set_yticks(ticks, names)
        axes.tick_params(length=0, labelcolor=INK)
        for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
            _highlight(labels, [index in forget for index in ticks])

    return svg(f"confusion-{which}", f"Confusion matrix: {MODELS[which]}", 4.8, paint)


def destinations(evaluation: dict[str, Any], most: int = 8) -> list[str]:
    """The answers to the test images of the first few forgotten classes, beside those of a retrained model."""
    forget = evaluation["forget"][:MOST_DESTINATIONS]
    taken = {key: (evaluation.get(key) or {}).get("forgotten_predictions") or {} for key in ("unlearned", "retrained")}
    shares = [{key: t[str(index)] for key, t in taken.items() if t.get(str(index))} for index in forget]
    widest = max((value for share in shares for answer in share.values() for value in answer.values()), default=1.0)
    known = [(index, share) for index, share in zip(forget, shares, strict=True) if "unlearned" in share]
    return [_destinations(evaluation, index, share, widest, most) for index, share in known]


def _destinations(evaluation: dict[str, Any], index: int, shares: dict[str, Any], widest: float, most: int) -> str:
    first = shares["unlearned"]
    answers = sorted(first, key=lambda answer: (-first[answer], int(answer)))[:most]

    def paint(figure: Any) -> None:
        axes, rows, thick = figure.subplots(), np.arange(len(answers)), 0.8 / len(shares)
        for place, (key, share) in enumerate(shares.items()):
            values = [share.get(answer, 0.0) for answer in answers]
            at = rows + (place - (len(shares) - 1) / 2) * thick
            axes.barh(at, [100 * value for value in values], thick, color=BEFORE if place else AFTER, label=MODELS[key])
            for y, value in zip(at, values, strict=True):
                axes.text(100 * value + widest, y, percent(value), va="center", color=MUTED, fontsize=7)
        axes.set(xlim=(0, 115 * widest), ylim=(len(rows) - 0.4, -0.6), xticks=[])
        axes.spines["bottom"].set_visible(False)
        title = f"{noun(evaluation).capitalize()}s of '{_short(evaluation, index)}' are taken for"
        axes.set_title(title, pad=20 if len(shares) > 1 else 6)
        axes.set_yticks(rows, [_short(evaluation, answer) for answer in answers])
        _highlight(axes.get_yticklabels(), [int(answer) in evaluation["forget"] for answer in answers])
        if len(shares) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderpad=0, handlelength=1)

    return svg(f"answers-{index}", f"Where forgotten {noun(evaluation)}s now go", 0.8 + 0.32 * len(answers), paint)


def channels(evaluation: dict[str, Any]) -> tuple[list[str], int]:
    """Channel scores of each masked layer, highest first, and the number of layers that were left out."""
    layers = [
        (name, _numbers(layer["score"]), _numbers(layer["factor"]))
        for name, layer in (evaluation.get("channels") or {}).items()
        if layer.get("score") and min(layer["factor"]) < 1
    ]
    panels = [_channels(place, *layer) for place, layer in enumerate(layers[:MOST_PANELS])]
    return panels, len(layers) - len(panels)


def _channels(place: int, name: str, score: np.ndarray, factor: np.ndarray) -> str:
    order = np.argsort(-np.nan_to_num(score), kind="stable")
    score, factor = np.nan_to_num(score)[order], factor[order]

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        half = 0.4 if len(score) <= 128 else 0.5
        edges = np.arange(len(score))[:, None] + [-half, -half, half, half]  # channel -> channel corner
        # One shape a tenth of attenuation, not one a channel: a wide layer has hundreds.
        levels = np.ceil(10 * (1 - np.clip(factor, 0, 1)))
        for level in np.unique(levels):
            here = levels == level
            heights = (score[here][:, None] * [0, 1, 1, 0]).ravel()
            colour, solid = (FORGOTTEN, 0.25 + 0.075 * level) if level else (BEFORE, 1)
            axes.fill_between(edges[here].ravel(), heights, color=colour, alpha=solid, linewidth=0)
        axes.axhline(0, color=MUTED, linewidth=0.6)
        axes.set(xlabel="channel, by score", ylabel="score", xticks=[], xlim=(-0.6, len(score) - 0.4))
        axes.set_title(f"{name}: {np.sum(factor < 1)} of {len(factor)}")
        axes.grid(axis="y")

    return svg(f"channels-{place}", f"Channel scores of {name}", 2.2, paint)
