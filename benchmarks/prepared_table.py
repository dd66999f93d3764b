"""The tables of prepared requests: time and size of each, and differences of composed sets."""

from collections.abc import Sequence
from statistics import mean, median
from typing import Any

from osp_jax.report.tables import markdown_table

HEADER = [
    "Network",
    "Method",
    "Preparation, s a class",
    "Bytes a class",
    "Prepared, warm ms",
    "99th percentile",
    "with the report",
    "cold ms",
    "Computed, warm ms",
    "cold ms",
    "Parameters",
]
SET_HEADER = [
    "Network",
    "Method",
    "Sets",
    "Request",
    "Seconds",
    "Forgotten, mean %",
    "worst",
    "Others, mean change",
    "worst",
    "Distance to the joint parameters",
]
_REQUESTS = {"joint": "joint", "composed": "composed", "repaired": "composed and repaired"}
_SECONDS = {"joint": "joint_seconds", "composed": "compose_seconds", "repaired": "repair_seconds"}


def rows(found: Sequence[dict[str, Any]]) -> list[list[str]]:
    """One row per network and method, under `HEADER`, from results per network."""
    return [_row(results["network"], row) for results in found for row in results["rows"]]


def set_rows(found: Sequence[dict[str, Any]]) -> list[list[str]]:
    """One row per network, method, set size and way of answering, under `SET_HEADER`."""
    table = []
    for results in found:
        keys = dict.fromkeys((row["method"], len(row["forget"])) for row in results["sets"])
        for method, size in keys:
            sets = [row for row in results["sets"] if (row["method"], len(row["forget"])) == (method, size)]
            sets = list({tuple(row["forget"]): row for row in sets}.values())
            table += [
                [results["network"], method, f"{len(sets)} of {size}", words, *_figures(sets, request)]
                for request, words in _REQUESTS.items()
                if all(f"{request}_forgotten" in row for row in sets)
            ]
    return table


def summary(found: Sequence[dict[str, Any]]) -> str:
    """The table of single requests, with the devices and networks."""
    about = "; ".join(
        f"`{results['network']}`: {results['dataset']}, {results['accuracy']:.2%}, "
        f"{results['parameters_bytes']:,} bytes of parameters"
        for results in found
    )
    devices = " and ".join(dict.fromkeys(results["provenance"]["device"] for results in found))
    return f"On {devices}. {about}.\n\n{markdown_table(HEADER, rows(found))}"


def sets_and_commands(found: Sequence[dict[str, Any]]) -> str:
    """The table of sets of classes, and the commands of both tables."""
    commands = dict.fromkeys(row["command"] for results in found for row in results["rows"] if "command" in row)
    listed = "\n".join(f"- `{command}`" for command in commands)
    return (
        "Sets of two and three classes, drawn by a seed, on the test images; changes in points against the original. "
        "The distance is that to the joint request's parameters, over how far these are from the original's.\n\n"
        f"{markdown_table(SET_HEADER, set_rows(found))}\n\nMade by:\n\n{listed}"
    )


def _row(network: str, row: dict[str, Any]) -> list[str]:
    if "error" in row:
        return [network, row["method"], "cannot act", *["-"] * (len(HEADER) - 3)]
    times = ("", "_p99", "_with_report")
    prepared = [row[f"warm_seconds_prepared{which}"] for which in times] + [row["cold_seconds_prepared"]]
    computed = row["warm_seconds"], row["cold_seconds"]
    return [
        network,
        row["method"],
        f"{row['prepare_seconds']:.2f}",
        f"{row['bytes_a_class']:,.0f}",
        *(f"{1e3 * seconds:,.2f}" for seconds in prepared),
        *(f"{1e3 * seconds:,.0f}" for seconds in computed),
        "bit-identical" if row["bit_identical"] else "to rounding",
    ]


def _figures(sets: Sequence[dict[str, Any]], request: str) -> list[str]:
    forgotten, change = ([100 * row[f"{request}_{what}"] for row in sets] for what in ("forgotten", "others_change"))
    apart = "-" if request == "joint" else f"{mean(row[f'{request}_difference'] for row in sets):.2f}"
    return [
        f"{median(row[_SECONDS[request]] for row in sets):.3f}",
        f"{mean(forgotten):.2f}",
        f"{max(forgotten):.2f}",
        f"{mean(change):+.2f}",
        f"{min(change):+.2f}",
        apart,
    ]
