"""Command-line parsing for the programs that use `argparse`; invalid arguments raise `InputError`."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from osp_jax.runtime.errors import InputError, printable, shown
from osp_jax.runtime.paths import check_path


class Parser(argparse.ArgumentParser):
    """Raises `InputError` for arguments that it cannot parse; options cannot be abbreviated."""

    def __init__(self, **options: Any):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see --help")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        given = sys.argv[1:] if args is None else args
        for argument in given:
            check_printable(argument)
        return super().parse_args(given, namespace)


def check_printable(argument: str) -> None:
    """Raises `InputError` for control characters, and for bytes that are not UTF-8."""
    if printable(argument) != argument:
        raise InputError(
            f"the argument {shown(argument)} holds control characters or bytes that are not UTF-8; use printable text"
        )


def whole(low: int, high: int) -> Callable[[str], int]:
    """A parser of integers from `low` to `high`."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{shown(text)} is not an integer from {low} to {high}")
        return number

    return parse


def path(kind: str) -> Callable[[str], Path]:
    """A parser of paths of a 'file' or a 'folder'; the path need not exist."""

    def parse(text: str) -> Path:
        check_path(text, "the path", kind)
        return Path(text)

    return parse


def several(parse: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """A parser of one or more distinct values separated by commas."""

    def parse_all(text: str) -> list[Any]:
        values = [parse(part.strip()) for part in text.split(",")]
        if len(set(values)) < len(values):
            raise argparse.ArgumentTypeError(f"{shown(text)} has a value twice")
        return values

    return parse_all
