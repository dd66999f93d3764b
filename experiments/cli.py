"""What all commands share: flags, their parsing, and errors. Invalid input exits with code 2 and a one-line fix."""

import io
import os
import re
import sys
import textwrap
from collections.abc import Callable
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from absl import app, flags, logging

from osp_jax.runtime.arguments import check_printable
from osp_jax.runtime.errors import InputError, exit_on_input_error, printable
from osp_jax.runtime.limits import require_open_files
from osp_jax.runtime.paths import check_path

SEEDS = {"lower_bound": 0, "upper_bound": 2**31 - 1}
COUNTS = {"lower_bound": 0, "upper_bound": 10**9}

_COORDINATOR = flags.DEFINE_string(
    "coordinator",
    "",
    "address of the first of several processes that run this command: host:port, or auto (TPU pod, SLURM, GKE)",
)
_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "number of these processes; not with --coordinator=auto", lower_bound=1, upper_bound=10**6
)
_PROCESS = flags.DEFINE_integer(
    "process_id", None, "number of this process, from 0; not with --coordinator=auto", **COUNTS
)
_PATIENCE = flags.DEFINE_integer(
    "patience",
    60,
    "seconds that these processes wait for each other before all of them stop",
    lower_bound=1,
    upper_bound=7 * 24 * 3600,
)


flags.disclaim_key_flags()  # the flags that functions below define belong to the command


def run(main: Callable[[], None], *, keep_programs: bool = True, computes: bool = True, several: bool = False) -> None:
    """Parses the command line and calls `main()`.

    Args:
      several: whether the command may run in several processes.
      computes: whether it computes, on all devices; False for a command that starts other processes.
      keep_programs: whether compiled programs are kept in the user's cache folder for the next run; False for a
        command that measures compilation. `JAX_COMPILATION_CACHE_DIR` takes precedence where it is set.
    """
    # Libraries log before they raise; those lines would hide our one-line message.
    logging.set_verbosity(logging.FATAL)
    if keep_programs and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        _keep_programs()
    exit_on_input_error(_parse_and_call, main, computes, several)


# Flags that several commands share.


class _Path(flags.ArgumentParser):
    def __init__(self, name: str, kind: str):
        self.name, self.kind = name, kind

    def parse(self, argument: Any) -> str:
        check_path(argument, f"--{self.name}", self.kind)
        return argument


class _Names(flags.ListParser):
    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def parse(self, argument: Any) -> list[str]:
        names = super().parse(argument)
        if not names or "" in names:
            raise InputError(f"--{self.name} has an empty entry; give names separated by commas, or leave it out")
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise InputError(f"--{self.name} has {twice!r} twice; give each once")
        return names


def folder_flag(name: str, help_text: str, *, required: bool = False, several: bool = False) -> flags.FlagHolder:
    """A flag for the path of a folder, which need not exist.

    Parsing raises `InputError` as `osp_jax.runtime.paths.check_path` does.

    Args:
      several: whether the flag may be repeated; its value is then a list.
    """
    define = flags.DEFINE_multi if several else flags.DEFINE
    given = _Path(name, "folder"), name, None, help_text
    if several:
        return define(given[0], flags.ArgumentSerializer(), *given[1:], required=required)
    return define(*given, required=required)


def path_flag(name: str, help_text: str, *, required: bool = False) -> flags.FlagHolder:
    """A flag for the path of a file or folder, which need not exist; it raises `InputError` as `folder_flag` does."""
    return flags.DEFINE(_Path(name, "file or folder"), name, None, help_text, required=required)


def names_flag(name: str, help_text: str, default: list[str] | None = None) -> flags.FlagHolder:
    """A flag for names separated by commas; parsing raises `InputError` for an empty name or a repeated one."""
    return flags.DEFINE(_Names(name), name, default, help_text, serializer=flags.CsvListSerializer(","))


def data_dir_flag() -> flags.FlagHolder:
    """The flag for the place of data that a workdir records, where they have moved."""
    return flags.DEFINE_string(
        "data_dir", "", "the TFDS folder, or your own folder or file, if it is not at the recorded place"
    )


def tfds_flag() -> flags.FlagHolder:
    """The flag for the place of TFDS's data sets."""
    return flags.DEFINE_string("data_dir", "", "the TFDS folder; empty: TFDS_DATA_DIR, else TFDS's own default")


class MethodFlags(NamedTuple):
    """The flags that choose a method and what it may see."""

    name: flags.FlagHolder
    option: flags.FlagHolder
    settings: flags.FlagHolder
    data_dir: flags.FlagHolder
    retain_per_class: flags.FlagHolder
    forget_per_class: flags.FlagHolder
    seed: flags.FlagHolder

    def parsed(self) -> Any:
        """The method with its options; those of `--option` replace those of `--settings`.

        Raises:
          InputError: as `osp_jax.methods.parse_options` and `osp_jax.comparison.chosen.chosen_settings`.
        """
        from osp_jax.comparison.chosen import chosen_settings
        from osp_jax.methods import get_method, parse_options

        get_method(self.name.value)
        chosen = chosen_settings(Path(self.settings.value), self.name.value) if self.settings.value else []
        return parse_options(self.name.value, [*chosen, *self.option.value])

    def budget(self) -> dict[str, int | None]:
        """The number of examples of each class that the method may see; None: all."""
        return {"retain_per_class": self.retain_per_class.value, "forget_per_class": self.forget_per_class.value}


def method_flags() -> MethodFlags:
    """Defines the flags of a command that runs a method; `--method=NAME --help` then lists its options."""
    retained = "retained examples of each class that the method may see; none: all"
    return MethodFlags(
        flags.DEFINE_string("method", "osp-fit", "a method of osp_jax.methods; --method=NAME --help lists its options"),
        flags.DEFINE_multi_string("option", [], "an option of the method, as name=value; may be given again"),
        path_flag("settings", "results.json of experiments.benchmark: use the options that it selected for the method"),
        data_dir_flag(),
        flags.DEFINE_integer("retain_per_class", None, retained, **COUNTS),
        flags.DEFINE_integer(
            "forget_per_class", None, "examples of each class to forget that the method may see; none: all", **COUNTS
        ),
        flags.DEFINE_integer("seed", 0, "seed of the random numbers that a method draws", **SEEDS),
    )


class _ConfigFile(flags.ArgumentParser):
    def __init__(self, name: str):
        self.name = name

    def parse(self, argument: Any) -> Any:
        from osp_jax.runtime.config_files import load_config

        config = load_config(argument, f"--{self.name}")
        config.lock()
        return config

    def flag_type(self) -> str:
        return "config object"


def guarded(flag: flags.FlagHolder) -> flags.FlagHolder:
    """Makes a flag of `config_flags.DEFINE_config_file` required, and has `config_files.load_config` load its file.

    The flag must have no default: absl would load it where the flag is defined, before errors can be reported.
    """
    flags.mark_flag_as_required(flag.name)
    flags.FLAGS[flag.name].parser = _ConfigFile(flag.name)
    return flag


def config_of(flag: flags.FlagHolder, kind: str = "training") -> Any:
    """The config of a config file flag, checked and completed.

    The path of a user's own data is made absolute, so that later commands find it from any folder.

    Args:
      kind: 'training' or 'comparison'.

    Raises:
      InputError: a setting that is unknown, of the wrong type, out of range or not finite.
    """
    from osp_jax.data.paths import with_absolute_paths
    from osp_jax.runtime import settings

    config = settings.validated(flag.value, settings.KINDS[kind])
    data = config.original.data if kind == "comparison" else config.data
    data.update(with_absolute_paths(data))
    return config


# Parsing, from the start of a command to its `main`.


def _keep_programs() -> None:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(home) / "osp_jax"
    if not folder.is_absolute():  # the user has no home folder
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError):
        return
    # JAX warns about each program that it cannot write.
    if os.access(folder, os.W_OK | os.X_OK):
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def _parse_and_call(main: Callable[[], None], computes: bool, several: bool) -> None:
    with redirect_stdout(Printable(sys.stdout)):
        _parse(sys.argv)
        require_open_files()
        if _COORDINATOR.value and not several:
            raise InputError("this command runs in one process, on all its devices; leave --coordinator out")
        if not computes:
            main()
            return
        from osp_jax.runtime.distributed import check_same, is_first, join, using_all

        if _COORDINATOR.value:
            join(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value, _PATIENCE.value)
            check_same(re.sub(r"--?process_id[= ]\d+", "", " ".join(sys.argv[1:])), "commands")
        with using_all(), redirect_stdout(sys.stdout if is_first() else None):
            main()


def method_help(name: str) -> str:
    """What a method does and its options, in lines of at most 100 characters.

    Raises:
      InputError: an unknown method.
    """
    from osp_jax.methods import get_method
    from osp_jax.methods.parts.options import describe_options
    from osp_jax.report.method_facts import method_facts

    kind = get_method(name)
    lines = [f"--method={name}", "", *textwrap.wrap(method_facts(name).title, 100), ""]
    lines += ["options, each given as --option=NAME=VALUE:" if describe_options(kind) else "It has no options."]
    for option in describe_options(kind):
        lines += ["", f"  {option.name}: {option.values} (default: {option.default!r})"]
        parts = [option.meaning, f"source of the default: {option.source}" if option.source else ""]
        if option.name in kind.search:
            parts.append(f"tried in comparisons: {', '.join(map(str, kind.search[option.name]))}")
        for part in filter(None, parts):
            lines += textwrap.wrap(part, 100, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
    return "\n".join(lines)


def _method_in(argv: list[str]) -> str:
    """The method that `argv` names, where the command has the flags of `method_flags`; else ''."""
    if "forget_per_class" not in flags.FLAGS:
        return ""
    named = [value for flag, value in pairwise([*argv, ""]) if flag in ("-method", "--method")]
    named += [argument.partition("=")[2] for argument in argv if re.match("--?method=", argument)]
    return named[-1] if named else ""


class Printable(io.TextIOBase):
    """A text stream that escapes control characters, which a terminal would act on, as in the name of a class."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        if self._stream is not None:
            self._stream.write("\n".join(map(printable, text.split("\n"))))
        return len(text)

    def flush(self) -> None:
        if self._stream is not None:
            self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()


def _parse(argv: list[str]) -> None:
    for argument in argv[1:]:
        check_printable(argument)
    if "--help" in argv:
        if method := _method_in(argv):
            print(method_help(method))
            sys.exit(0)
        app.usage(shorthelp=True, writeto_stdout=True, exitcode=0)
    try:
        rest = flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:  # the override names a field that the config does not have
        message = error.args[0].args[0] if isinstance(error.args[0], KeyError) else error.args[0]
        raise InputError(f"unknown config key {message}") from error
    except (flags.Error, TypeError, ValueError, IndexError, RecursionError, MemoryError) as error:
        raise InputError(f"{error}; see --help") from error
    if len(rest) > 1:
        raise InputError(f"unexpected argument {rest[1]!r}; every option starts with --, see --help")
