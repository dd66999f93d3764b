"""Turns a drawing into SVG text: the same input gives the same bytes, and the page's CSS sets the colours.

A figure is drawn in the light palette; every palette colour is then replaced by a CSS variable with that colour as its
fallback, so that one drawing suits light, dark and paper. Text stays text, in the reader's own sans-serif.
"""

import io
import re
import warnings
from collections.abc import Callable
from html import escape
from typing import Any

# Okabe and Ito's blue and vermilion, told apart with any colour vision, beside greys.
INK, MUTED, RULE, BEFORE, AFTER, FORGOTTEN = "#1c2128", "#626c78", "#d4d9e0", "#98a2ae", "#0072b2", "#d55e00"
PALETTE = {"ink": INK, "muted": MUTED, "rule": RULE, "before": BEFORE, "after": AFTER, "forgotten": FORGOTTEN}
_WIDTH = 4.8  # inches: 460 px, so that text stays readable on a phone and two figures fit beside each other
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.parse_math": False,  # a class may be called "$x$"
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": RULE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "ytick.major.size": 0,
    "legend.frameon": False,
}


def svg(name: str, title: str, height: float, paint: Callable[[Any], None]) -> str:
    """The SVG of what `paint` draws on a figure; `name` makes its ids unique in a page."""
    import matplotlib
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's font draws it, not ours
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        paint(figure)
        figure.savefig(
            buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text[text.index("<svg") :], flags=re.DOTALL)
    # A hundredth of a point is enough.
    text = re.sub(r' (?:d|x|y)="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), text)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = text.replace("'DejaVu Sans'", "system-ui, 'Segoe UI', Roboto, sans-serif")
    for variable, colour in PALETTE.items():
        text = text.replace(colour, f"var(--{variable}, {colour})")
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1).strip()
