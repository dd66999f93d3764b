"""The audit's figures, each a pure function of the evaluation that returns SVG texts.

A model has the same colour and line in every figure: the original grey and dotted, the unlearned blue and solid, the
retrained in the text's colour and dashed.
"""

from typing import Any

import numpy as np

from osp_jax.report.audit_tables import curves_of
from osp_jax.report.measure_words import attack_label, label
from osp_jax.report.nouns import noun
from osp_jax.report.svg import AFTER, BEFORE, FORGOTTEN, INK, MUTED, svg
from osp_jax.report.tables import MODELS

MOST_POINTS, MOST_PANELS = 1500, 12
_LOWEST_RATE = 1e-3
_LINES = {
    "original": {"color": MUTED, "linestyle": (0, (1, 1.1)), "linewidth": 2.0, "marker": "s"},
    "unlearned": {"color": AFTER, "linestyle": "-", "linewidth": 2.0, "marker": "o"},
    "retrained": {"color": INK, "linestyle": (0, (4.5, 2)), "linewidth": 1.4, "marker": "^"},
}
_OPEN = {"markersize": 4, "markerfacecolor": "none", "markeredgewidth": 1.0}


def roc(evaluation: dict[str, Any]) -> tuple[list[str], int]:
    """A panel for each attack: training images found against false alarms, on log axes; and the number left out."""
    curves = curves_of(evaluation, "roc")
    attacks = list(dict.fromkeys(attack for found in curves.values() for attack in found))
    kind = noun(evaluation)
    return [_roc(place, attack, curves, kind) for place, attack in enumerate(attacks[:MOST_PANELS])], _rest(attacks)


def _roc(place: int, attack: str, curves: dict[str, Any], kind: str) -> str:
    def paint(figure: Any) -> None:
        axes = figure.subplots()
        axes.plot([_LOWEST_RATE, 1], [_LOWEST_RATE, 1], color=BEFORE, linewidth=0.8, label="guessing")
        for key, found in curves.items():
            if attack in found:
                axes.plot(*_on_log_axes(found[attack]), **_line(key) | {"marker": ""})
        axes.set(xscale="log", yscale="log", xlim=(_LOWEST_RATE, 1), ylim=(_LOWEST_RATE, 1.15))
        axes.set(xlabel=f"false alarms: unseen {kind}s taken for training {kind}s", ylabel=f"training {kind}s found")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda rate, _: f"{100 * rate:.3g}%")
        axes.minorticks_off()
        _finish(axes, attack_label(attack))

    return svg(f"roc-{place}", f"ROC curve: {attack_label(attack)}", 3.4, paint)


def _on_log_axes(curve: dict[str, list[float]]) -> tuple[np.ndarray, np.ndarray]:
    """The corners of the curve that can be told apart; below the lowest rate the curve is flat."""
    fpr, tpr = (np.maximum(np.asarray(curve[side], float), _LOWEST_RATE) for side in ("fpr", "tpr"))
    first = np.flatnonzero(fpr <= _LOWEST_RATE)[-1:]  # of several at the edge, the highest
    keep = np.concatenate([first, np.flatnonzero(fpr > _LOWEST_RATE)])
    fpr, tpr = fpr[keep], tpr[keep]
    corners = np.repeat(fpr, 2)[1:], np.repeat(tpr, 2)[:-1]
    cells = np.round(np.log10(np.stack(corners)) * 150)
    apart = np.append(True, np.any(np.diff(cells) != 0, axis=0)) if len(fpr) else slice(None)
    return corners[0][apart], corners[1][apart]


def relearning(evaluation: dict[str, Any]) -> tuple[list[str], int]:
    """A panel for each setting: accuracy on unseen forgotten images against steps; and the number left out."""
    curves = curves_of(evaluation, "relearning")
    settings = list(dict.fromkeys(setting for found in curves.values() for setting in found))
    named = [(label(setting, noun(evaluation)), setting) for setting in settings[:MOST_PANELS]]
    return [_relearning(place, *name, curves) for place, name in enumerate(named)], _rest(settings)


def _relearning(place: int, title: str, setting: str, curves: dict[str, Any]) -> str:
    def paint(figure: Any) -> None:
        axes = figure.subplots()
        for key, found in curves.items():
            if curve := found.get(setting):
                steps, accuracy = np.asarray(curve["steps"]), 100 * np.asarray(curve["accuracy"], float)
                every = max(1, len(steps) // 8)
                axes.plot(steps, accuracy, markevery=every, **_line(key), **_OPEN)
        axes.set(ylim=(-3, 103), xlabel="training steps", ylabel="accuracy, %")
        _finish(axes, title)

    return svg(f"relearning-{place}", f"Relearning: {title}", 2.8, paint)


def cka(evaluation: dict[str, Any]) -> list[str]:
    """Likeness of each layer to the original, and to the retrained model, of the other models."""
    curves = curves_of(evaluation, "cka")
    return [_cka(other, found) for other in ("original", "retrained") if (found := _others(curves, other))]


def _others(curves: dict[str, Any], other: str) -> dict[str, dict[str, float]]:
    return {key: found[other] for key, found in curves.items() if key != other and found.get(other)}


def _cka(other: str, found: dict[str, dict[str, float]]) -> str:
    layers = list(dict.fromkeys(layer for values in found.values() for layer in values))
    every = -(-len(layers) // 24)

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        for key, values in found.items():
            height = [np.nan if values.get(layer) is None else values[layer] for layer in layers]
            axes.plot(range(len(layers)), height, **_line(key), **_OPEN)
        axes.set(ylim=(min(0, axes.get_ylim()[0]), 1.04), ylabel="likeness (CKA)")
        names = [layer if len(layer) <= 24 else f"…{layer[-23:]}" for layer in layers]
        few = len(layers) <= 4 and max(map(len, names)) <= 12
        axes.set_xticks(range(0, len(layers), every), names[::every], rotation=0 if few else 90)
        _finish(axes, f"Likeness to the {other}, from input to output")

    return svg(f"cka-{other}", f"Likeness of each layer to the {other}", 3.4, paint)


def feature_map(evaluation: dict[str, Any]) -> list[str]:
    """Where the test images lie in the features before the last layer, with a panel for each model."""
    maps = curves_of(evaluation, "map")
    shared = [np.asarray(maps[key][side], float) for key in ("original", "unlearned") if key in maps for side in "xy"]
    return [_feature_map(key, found, shared if key != "retrained" else None) for key, found in maps.items()]


def _feature_map(key: str, found: dict[str, list], shared: list[np.ndarray] | None) -> str:
    x, y = (np.asarray(found[side], float) for side in "xy")
    gone = np.asarray(found["forgotten"], bool)

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        chosen = thinned(gone)
        rest, forgotten = chosen[~gone[chosen]], chosen[gone[chosen]]
        axes.plot(x[rest], y[rest], "o", color=BEFORE, markersize=2.4, markeredgewidth=0, label="other classes")
        axes.plot(x[forgotten], y[forgotten], "x", color=FORGOTTEN, markersize=4, label="forgotten")
        if shared:  # before and after on the same scale
            axes.set(xlim=_limits(shared[::2]), ylim=_limits(shared[1::2]))
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(True)
        _finish(axes, MODELS[key], grid=False)

    return svg(f"map-{key}", f"Map of the features: {MODELS[key]}", 3.6, paint)


def thinned(gone: np.ndarray, most: int = MOST_POINTS) -> np.ndarray:
    """Indices of at most `most` points, evenly spaced; the forgotten ones, `gone` `(n,)`, get up to a third of them."""
    sides = np.flatnonzero(~gone), np.flatnonzero(gone)
    room = min(len(sides[1]), max(most // 3, most - len(sides[0])))
    return np.concatenate([_evenly(sides[0], most - room), _evenly(sides[1], room)])


def _evenly(indices: np.ndarray, most: int) -> np.ndarray:
    return indices if len(indices) <= most else indices[np.linspace(0, len(indices) - 1, most).astype(int)]


def _limits(values: list[np.ndarray]) -> tuple[float, float]:
    low, high = min(v.min() for v in values), max(v.max() for v in values)
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def _line(key: str) -> dict[str, Any]:
    return _LINES[key] | {"label": MODELS[key]}


def _finish(axes: Any, title: str, grid: bool = True) -> None:
    axes.set_title(title, pad=20)
    if grid:
        axes.grid(axis="both")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderpad=0, handlelength=2.2, columnspacing=1.2)


def _rest(names: list[str]) -> int:
    return max(0, len(names) - MOST_PANELS)
