"""Checks of class names and labels, made where they are read."""

import csv
from collections.abc import Sequence

import numpy as np

from osp_jax.runtime.errors import InputError, shown

_LONGEST = 200  # characters; the longest entry of WordNet has 174


def check_class_names(names: Sequence[str]) -> None:
    """Checks that each class can be named on the command line and printed.

    Raises:
      ValueError: a name is empty, too long, duplicate, or not printable (a terminal interprets control characters).
        The message names the problem.
    """
    first: dict[str, int] = {}
    for number, name in enumerate(names):
        if not name or len(name) > _LONGEST:
            raise ValueError(f"the name of class {number} has {len(name)} characters; 1 to {_LONGEST} are allowed")
        if not name.isprintable():
            raise ValueError(f"the name of class {number} holds characters that cannot be printed: {name!a}")
        if name in first:
            raise ValueError(f"classes {first[name]} and {number} have the same name, {name!r}")
        first[name] = number


def parse_names(text: str) -> tuple[str, ...]:
    """Parses class names from 'cat,dog', in this order; quote a name that contains a comma: '"tench, fish",dog'.

    Raises:
      InputError: a name is empty, too long, duplicate or not printable.
    """
    if not text.strip():
        return ()
    try:
        (row,) = csv.reader([text], skipinitialspace=True, strict=True)
        names = tuple(name.strip() for name in row)
        check_class_names(names)
    except (ValueError, csv.Error) as error:
        raise InputError(f"data.class_names is {shown(text)}: {error}; give names separated by commas") from error
    return names


def check_labels(labels: np.ndarray, class_names: Sequence[str], where: str) -> None:
    """Checks the labels `(n,)` of a split.

    Args:
      where: the location of the labels, for the message, such as 'DIR/cifar10/3.0.2: train'.

    Raises:
      InputError: there are no labels, or one is not the number of a class.
    """
    if not len(labels):
        raise InputError(f"{where} holds no images; choose another data set or prepare it again")
    wrong = np.flatnonzero((labels < 0) | (labels >= len(class_names)))
    if len(wrong):
        raise InputError(
            f"{where} has the label {labels[wrong[0]]} at image {wrong[0]} ({len(wrong)} such images), but there are "
            f"{len(class_names)} class names, for labels 0 to {len(class_names) - 1}; delete it and prepare it again"
        )
