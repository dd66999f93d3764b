"""The table of targets: the target, the measured figure, whether it is met, and the file of the figure."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from osp_jax.report.audits import MEANS, linear_probe, mean_gap, means, new_head, retain_accuracy
from osp_jax.report.comparison_tables import summarise
from osp_jax.report.formats import NOTHING, duration
from osp_jax.report.sweep import swept

HEADER = ("Target", "Asked", "Measured", "", "In results/")
NOT_MEASURED = "not measured"


class Network(NamedTuple):
    """Where the figures of one network are, and the bounds of its targets; "" where there is no such target.

    `sweep`, `comparison`, `audit`, `lira`, `exact` and `prepared` are paths of JSON files in `results/`: what
    `experiments.sweep`, `experiments.benchmark` and `experiments.audits` wrote, the last with and without shadow
    models, and what the benchmarks of exact heads and of prepared requests wrote.
    """

    sweep: str
    comparison: str
    audit: str
    lira: str
    exact: str
    prepared: str
    to_retrained: float  # points, at least
    readable: float  # points of the linear probe and the new head, at most
    seconds: float  # of a warm request that was not prepared, at most


class Found(NamedTuple):
    """A figure in words, and whether the target is met; `file` it is from."""

    words: str
    met: bool | None
    file: str


def target_rows(network: Network, results: Mapping[str, Any], method: str) -> list[list[str]]:
    """Rows under `HEADER` of one network.

    Args:
      results: the contents of the files of `network` by path, those that are there.
      method: that the targets are asked of.
    """
    of = {name: results.get(getattr(network, name)) for name in Network._fields[:6]}
    found = swept(of["sweep"], method) if of["sweep"] and method in of["sweep"]["options"] else None
    compared = _compared(of["comparison"], method) or _audited(of["audit"], method)
    file = network.comparison if _compared(of["comparison"], method) else network.audit
    prepared = prepared_seconds(of["prepared"])
    rows = [
        (
            "Forgotten, mean / worst class",
            "at most 0.1% / 1%",
            _pair(found, "forget", lambda v: f"{100 * v:.2f}%", lambda v, b: v <= b, (0.001, 0.01), network.sweep),
        ),
        (
            "Others against the original, mean / worst request",
            "at least -0.3 / -0.7 points",
            _pair(found, "change", lambda v: f"{100 * v:+.2f}", lambda v, b: v >= b, (-0.003, -0.007), network.sweep),
        ),
        (
            "Others against retrained, mean",
            f"at least {network.to_retrained:g} points",
            _one(compared.get("retain"), "{:+.2f} points", lambda v: v >= network.to_retrained, file),
        ),
        *(
            (
                f"{what}, gap to retrained",
                f"at most {network.readable:g} points",
                _one(compared.get(name), "{:+.1f} points", lambda v: v <= network.readable, file),
            )
            for what, name in (("Linear probe", "probe"), ("New head", "head"))
        ),
        (
            "Relearning, steps against retrained",
            "at least 0.8",
            _one(compared.get("relearning"), "{:.2f}", lambda v: v >= 0.8, file),
        ),
    ]
    if network.lira:
        area = _area(of["lira"], method)
        rows.append((_attacked(of["lira"]), "at most 0.65", _one(area, "{:.3f}", lambda v: v <= 0.65, network.lira)))
    rows += [
        (
            "Warm request, prepared",
            "at most 1 ms",
            _time(prepared.get(method), 1e-3, network.prepared),
        ),
        (
            "Warm request, not prepared, from images",
            f"at most {network.seconds:g} s",
            _time(found["warm"] if found else None, network.seconds, network.sweep),
        ),
        (
            "Warm request, not prepared, from cached inputs",
            f"at most {network.seconds:g} s",
            _time(_seconds_without_images(of["prepared"]).get(method), network.seconds, network.prepared),
        ),
        ("Exact head, every gap", "0 within its interval", _gaps(of["exact"], network.exact)),
        ("Exact head, U-LiRA", "0.47 to 0.53", _exact_area(of["exact"], network.exact)),
    ]
    return [
        [name, asked, found.words, _MET[found.met], _place(found.file) if found.met is not None else NOTHING]
        for name, asked, found in rows
    ]


def _place(file: str) -> str:
    """A file below results/, without the name that most of them have."""
    return file.removeprefix("results/").removesuffix("/results.json")


def prepared_seconds(results: dict[str, Any] | None) -> dict[str, float]:
    """Seconds of a warm request that was prepared, by method, of what `benchmarks.prepared` wrote."""
    rows = results["rows"] if results else []
    return {row["method"]: row["warm_seconds_prepared"] for row in rows if "error" not in row}


_MET = {True: "met", False: "missed", None: NOTHING}


def _compared(results: dict[str, Any] | None, method: str) -> dict[str, float]:
    """Of a comparison, in points; empty where the method is not in it."""
    if results is None:
        return {}
    found = summarise(results, "single").get(method, {})
    names = {"retain": "retain_gap", "probe": "probe", "head": "head", "relearning": "relearning"}
    return {name: found[key].mean for name, key in names.items() if found.get(key)}


def _audited(results: dict[str, Any] | None, method: str) -> dict[str, float]:
    if results is None or method not in results["methods"]:
        return {}
    taken = {"retain": retain_accuracy, "probe": linear_probe, "head": new_head}
    gaps = {name: mean_gap(results, method, "retrained", of) for name, of in taken.items()}
    return {name: 100 * gap for name, gap in gaps.items() if gap is not None}


def _attacked(results: dict[str, Any] | None) -> str:
    if results is None:
        return "U-LiRA, AUC"
    return f"U-LiRA, AUC ({results['model']['name']}, {results['model']['parameters']:,} parameters)"


def _area(results: dict[str, Any] | None, method: str) -> float | None:
    if results is None:
        return None
    at = MEANS.index("U-LiRA, AUC")
    (words,) = [row[at] for row in means(results) if row[0] == method] or [NOTHING]
    return None if words == NOTHING else float(words)


def _pair(found: Any, name: str, words: Any, within: Any, bounds: Sequence[float], file: str) -> Found:
    if found is None:
        return Found(NOT_MEASURED, None, file)
    values = found[name], found[f"{name}_worst"]
    met = all(within(value, bound) for value, bound in zip(values, bounds, strict=True))
    return Found(" / ".join(map(words, values)), met, file)


def _one(value: float | None, words: str, within: Any, file: str) -> Found:
    return Found(NOT_MEASURED, None, file) if value is None else Found(words.format(value), within(value), file)


def _time(seconds: float | None, most: float, file: str) -> Found:
    return Found(NOT_MEASURED, None, file) if seconds is None else Found(duration(seconds), seconds <= most, file)


def _seconds_without_images(results: dict[str, Any] | None) -> dict[str, float]:
    """Seconds of a warm request that was computed without images, by method, of what `benchmarks.prepared` wrote."""
    rows = results["rows"] if results else []
    return {row["method"]: row["warm_seconds"] for row in rows if row.get("images_at_request") == 0}


def _gaps(results: dict[str, Any] | None, file: str) -> Found:
    """`results["gaps"]`: by name `{"value", "ci95"}` of the differences to a refit without the class."""
    if not results or not results.get("gaps"):
        return Found(NOT_MEASURED, None, file)
    outside = [name for name, gap in results["gaps"].items() if not gap["ci95"][0] <= 0 <= gap["ci95"][1]]
    number = len(results["gaps"])
    return Found(f"{number - len(outside)} of {number} within", not outside, file)


def _exact_area(results: dict[str, Any] | None, file: str) -> Found:
    area = (results or {}).get("u_lira_auc")
    return _one(area and area["value"], "{:.3f}", lambda v: abs(v - 0.5) <= 0.03, file)
