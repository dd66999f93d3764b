"""Formats numbers for a reader, and plain text as Markdown."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

DASH = NOTHING = "\N{EN DASH}"
_NUMBER = re.compile(rf"([<>]?[+-]?\d.*|{NOTHING}|not run|never\b.*)?")


def percent(fraction: float | None) -> str:
    """A fraction in percent with one decimal; only exactly 0 and 1 are shown as 0.0% and 100.0%."""
    if fraction is None or math.isnan(fraction):
        return NOTHING
    if 0 < fraction < 0.0005:
        return "<0.1%"
    return ">99.9%" if 0.9995 <= fraction < 1 else f"{100 * fraction:.1f}%"


def points(after: float | None, before: float | None) -> str:
    """The signed difference of two fractions in percentage points."""
    return NOTHING if after is None or before is None else f"{100 * (after - before):+z.1f}"


def duration(seconds: float | None) -> str:
    """Seconds, in the unit that gives the shortest number."""
    if seconds is None:
        return NOTHING
    for scale, limit, unit in ((1e6, 999.5, "µs"), (1e3, 999.5, "ms"), (1.0, 120.0, "s")):
        if seconds * scale < limit:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds / 60:.1f} min"


def text(value: Any) -> str:
    """A JSON value, nested or not, in one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {text(item)}" for key, item in value.items())
    return ", ".join(map(text, value)) if isinstance(value, (list, tuple)) else str(value)


def commit(made: dict[str, Any]) -> str:
    """The commit of a provenance: 12 digits, and whether the source tree had changes."""
    return made["commit"][:12] + (" with changes" if made["commit"].endswith("+") else "")


def right_aligned(rows: Sequence[Sequence[str]]) -> list[bool]:
    """Whether each column holds only numbers; the first column never does, it names the row."""
    return [i > 0 and all(_NUMBER.fullmatch(row[i]) for row in rows[1:]) for i in range(len(rows[0]))]


def markdown_text(text: str) -> str:
    """Plain text, escaped so that Markdown shows exactly it."""
    text = re.sub(r"([\\`*~\[\]|]|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(str(text).split()))
    return text.replace("&", "&amp;").replace("<", "&lt;")


def markdown_table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table of plain text, with numbers aligned to the right; ends with a newline."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    rule = ["---:" if right else "---" for right in right_aligned(cells)]
    lines = [[markdown_text(cell) for cell in row] for row in cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in (lines[0], rule, *lines[1:]))
