"""What a method is, read off its class and the docstring of its file, for tables and the pages of the documentation."""

import dataclasses
import inspect
import re
import sys

from osp_jax.methods import METHODS, get_method
from osp_jax.report.deviations import DEVIATIONS

_IMAGES = {(): "none", ("retain",): "retained", ("forget",): "forgotten", ("retain", "forget"): "both"}
_DESCENDS = {"descend", "descend_from"}  # of `training.descent`
_ARXIV = re.compile(r"arXiv[:\s]\s*(\d+\.\d+)")


@dataclasses.dataclass(frozen=True)
class MethodFacts:
    """What a reader wants to know of a method.

    Attributes:
      name: under which it is registered.
      title: one line: what it does.
      details: the rest of the docstring of its file: the paper, its equations, and what is ours. May be empty.
      note: the docstring of its class, without the first line. May be empty.
      papers: the numbers on arXiv that the docstring names, the method's own first; empty for methods of ours.
      images: that a request reads, of which side: 'none', 'retained', 'forgotten' or 'both'.
      descends: whether it takes gradient steps on the weights.
      deviation: where it differs from its paper.
    """

    name: str
    title: str
    details: str
    note: str
    papers: tuple[str, ...]
    images: str
    descends: bool
    deviation: str


def method_facts(name: str) -> MethodFacts:
    """The facts of the method `name`. Raises `InputError` for an unknown name."""
    kind = get_method(name)
    module = sys.modules[kind.__module__]
    title, _, details = inspect.getdoc(module).partition("\n")
    _, _, note = inspect.getdoc(kind).partition("\n")
    deviation = DEVIATIONS[name]
    papers = () if deviation.startswith("Ours") else tuple(dict.fromkeys(_ARXIV.findall(module.__doc__)))
    descends = name == "retrain" or kind().trains or bool(_DESCENDS & vars(module).keys())
    return MethodFacts(name, title, details.strip(), note.strip(), papers, _IMAGES[kind.sees], descends, deviation)


def all_methods() -> list[MethodFacts]:
    """The facts of every method, in the order of the registry."""
    return [method_facts(name) for name in METHODS]
