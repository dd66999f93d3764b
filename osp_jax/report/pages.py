"""Renders the templates beside this file; they escape all text except the figures that osp_jax drew."""

import re
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from osp_jax.report.formats import DASH, right_aligned
from osp_jax.report.verdicts import LESS, MORE, SAME, UNTOLD

_INTERVAL = re.compile(rf" (\([^()]*\d{DASH}[-\d][^()]*\)|(?<=^never )\([^()]*\))$")


def render(template: str, **given: Any) -> str:
    """The page of a template in `templates/`, self-contained HTML.

    Args:
      given: the values of the template's names.
    """
    return _environment().get_template(template).render(**given)


@cache
def _environment() -> Environment:
    loader = PackageLoader("osp_jax.report")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters |= {"right_aligned": right_aligned, "split_interval": _split_interval}
    made.tests |= {
        "a_verdict": lambda text: text in (SAME, MORE, LESS) or text.startswith(UNTOLD),
        "more_left": lambda text: text == MORE,
    }
    return made


def _split_interval(text: str) -> tuple[str, str]:
    """A cell's value and the interval in brackets after it; '' where there is none."""
    found = _INTERVAL.search(text)
    return (text[: found.start()], found[1]) if found else (text, "")
