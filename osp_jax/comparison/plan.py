"""The plan of a comparison: its methods with their settings, its requests, and the settings to try."""

import dataclasses
import itertools
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from osp_jax.data.splits import check_forget, parse_classes
from osp_jax.methods import METHODS, get_method, method_name, parse_options
from osp_jax.methods.parts.method import Method
from osp_jax.runtime.errors import InputError


class Request(NamedTuple):
    """Forget sets for consecutive requests; a single request has one. `name` describes them."""

    name: str
    steps: tuple[tuple[int, ...], ...]

    @property
    def forget(self) -> tuple[int, ...]:
        """All classes that are forgotten in the end."""
        return tuple(sorted(itertools.chain(*self.steps)))

    @property
    def kind(self) -> str:
        """The group over which its figures are averaged: 'single', '2 classes', '3 in sequence'."""
        if len(self.steps) > 1:
            return f"{len(self.steps)} in sequence"
        return "single" if len(self.forget) == 1 else f"{len(self.forget)} classes"


def parse_requests(texts: Sequence[str], class_names: Sequence[str]) -> list[Request]:
    """Requests from texts: 'each' is every class separately, '3,5' a set, '3 then 5' a sequence.

    Raises:
      InputError: a text names an unknown class, none or all of them, or a class twice in a sequence.
    """
    requests: dict[str, Request] = {}
    each = [str(number) for number in range(len(class_names))]
    for text in itertools.chain.from_iterable(each if text == "each" else [text] for text in texts):
        steps = tuple(parse_classes(part, class_names) for part in text.split(" then "))
        for step in steps:
            check_forget(step, len(class_names))
        forget = list(itertools.chain(*steps))
        check_forget(forget, len(class_names))
        if len(set(forget)) < len(forget):
            raise InputError(f"{text!r} asks for a class twice; name each once")
        name = " then ".join(", ".join(class_names[c] for c in step) for step in steps)
        requests[name] = Request(name, steps)
    if not requests:
        raise InputError("nothing to forget; give forget sets, for example 'each' or '3,5'")
    return list(requests.values())


def parse_methods(names: Sequence[str], assignments: Sequence[str], *, only: Sequence[str] = ()) -> dict[str, Method]:
    """Methods by name, with options from 'method:name=value' texts; without names: every registered method.

    `only`: a selection of them, in this order, and others with their defaults; empty: all.

    Raises:
      InputError: an unknown method, option or value, or a text for another method.
    """
    every = [name for name, kind in METHODS.items() if not kind.only_for]
    given: dict[str, list[str]] = {name: [] for name in names or every}
    for name in given:
        get_method(name)
    for text in assignments:
        name, _, assignment = text.partition(":")
        if name not in given:
            raise InputError(f"option {text!r} is for none of the methods; write it as method:name=value")
        given[name].append(assignment)
    methods = {name: parse_options(name, options) for name, options in given.items()}
    return {name: methods.get(name) or get_method(name)() for name in only} if only else methods


def trials(method: Method, number: int) -> list[Method]:
    """At most `number` settings to try: `method` itself first, then others from its `search`, drawn without replacement
    and seeded by the method's name, so that they do not depend on the other methods."""
    values = list(method.search.values())
    size = math.prod(map(len, values)) if values else 0
    draw = np.random.default_rng(zlib.crc32(method_name(method).encode())).permutation(size)
    found = [method]
    for index in draw:
        if len(found) >= number:
            break
        picks = np.unravel_index(index, [len(v) for v in values])
        changed = {key: value[int(i)] for (key, value), i in zip(method.search.items(), picks, strict=True)}
        other = dataclasses.replace(method, **changed)
        if other not in found:
            found.append(other)
    return found


def check_budget(method: Method, budget: Mapping[str, int | None]) -> None:
    """Raises `InputError` for a method that needs images that the budget excludes."""
    for side in method.sees:
        if budget[side] == 0:
            name = method_name(method)
            raise InputError(f"{name} needs {side} examples and the data budget allows none; raise {side}_per_class")
