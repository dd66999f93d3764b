"""The shell of every command: parse flags, call one function; bad input is one line and exit code 2."""

import sys
from collections.abc import Callable

from absl import flags

from osp_jax.errors import InputError, exit_on_input_error


def run(main: Callable[[], None]) -> None:
    """Parses the command line and calls `main()`."""
    exit_on_input_error(_parse_and_call, main)


def _parse_and_call(main: Callable[[], None]) -> None:
    _parse(sys.argv)
    main()


def _parse(argv: list[str]) -> None:
    try:
        rest = flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        # Config files are loaded while flags are parsed: a wrong key or type surfaces here, as one of these.
        raise InputError(f"{str(error).strip() or type(error).__name__}; see --help") from error
    if len(rest) > 1:
        raise InputError(f"unexpected argument {rest[1]!r}; every option starts with --, see --help")
