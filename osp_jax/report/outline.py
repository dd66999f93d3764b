"""The parts of a report, for HTML and Markdown alike: sections of text, tables and figures."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from osp_jax.report.tables import Rows

Drawn = list[tuple[str, list[str]]]  # caption, SVGs
NUMBERS = "The same in numbers"


class Section(NamedTuple):
    """A heading, a verdict, its explanation, tables, details, figures (in HTML only) and sections within.

    Empty tables and details are left out. `details` maps a heading to a table, which HTML shows folded. `anchor` is the
    id that the opening links to.
    """

    title: str
    text: str
    tables: list[Rows]
    details: Mapping[str, Rows] = MappingProxyType({})
    draw: Callable[[dict[str, Any]], Drawn] = lambda _: []
    when_empty: str = ""  # shown in place of the tables; without it an empty section is left out
    verdict: str = ""
    parts: tuple["Section", ...] = ()
    anchor: str = ""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (any(self.tables) or any(self.details.values()) or self.when_empty or self.parts)


def drawn(caption: str, svgs: list[str]) -> Drawn:
    """One group of figures, or none."""
    return [(caption, svgs)] if svgs else []
