"""Draws the figures of a comparison on the page of its tables, one group for each kind of request."""

from typing import TYPE_CHECKING, Any

from repository_pages import RESULTS

from osp_jax.report.comparison import method_figures
from osp_jax.report.comparison_tables import kinds
from osp_jax.runtime.workdir import read_json

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_PAGES = "generated/results/"


def with_figures(text: str, results: dict[str, Any]) -> str:
    """The Markdown of `table.md` with the figures after the heading of each kind of request."""
    for number, kind in enumerate(kinds(results)):
        figures = "\n".join(f"<div>{figure}</div>" for figure in method_figures(results, kind, number))
        before, heading, after = _split_at_heading(text, number)
        text = f"{before}{heading}\n\n```{{raw}} html\n<div class=figures>\n{figures}\n</div>\n```\n{after}"
    return text


def _split_at_heading(text: str, number: int) -> tuple[str, str, str]:
    """The text before the heading of second level with this number, counted from 0, the heading, and the rest."""
    lines = text.splitlines(keepends=True)
    places = [place for place, line in enumerate(lines) if line.startswith("## ")]
    place = places[number]
    return "".join(lines[:place]), lines[place].rstrip(), "".join(lines[place + 1 :])


def _draw(app: "Sphinx", docname: str, source: list[str]) -> None:
    del app
    results = (RESULTS / docname.removeprefix(_PAGES)).parent / "results.json"
    if docname.startswith(f"{_PAGES}benchmark/") and docname.endswith("/table"):
        source[0] = with_figures(source[0], read_json(results))


def setup(app: "Sphinx") -> dict[str, Any]:
    app.connect("source-read", _draw)
    return {"parallel_read_safe": True}
