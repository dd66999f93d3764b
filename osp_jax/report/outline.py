"""What a report is made of: sections of words, tables and figures, whatever page they end up on."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from osp_jax.report.tables import Rows

Drawn = list[tuple[str, list[str]]]  # caption, SVGs
NUMBERS = "The same in numbers"


class Section(NamedTuple):
    """A heading, a verdict, its explanation, tables, details, figures (in HTML only) and sections within.

    Empty tables and details are left out. `details` has a heading by table, folded away where the page can.
    `anchor` is the id that the opening refers to.
    """

    title: str
    text: str
    tables: list[Rows]
    details: Mapping[str, Rows] = MappingProxyType({})
    draw: Callable[[dict[str, Any]], Drawn] = lambda _: []
    when_empty: str = ""  # said in place of the tables; without it an empty section is left out
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
