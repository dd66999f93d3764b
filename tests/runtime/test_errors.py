"""The end of a command: one line, and an exit code."""

import errno
import os
import sys
import warnings

import pytest

from osp_jax.harm import Harm, HarmError
from osp_jax.runtime.errors import InputError, Stopped, exit_on_input_error, one_line, printable, shown, unknown


def ending(capsys, error: BaseException | None) -> tuple[int, str]:
    """(exit code, stderr) of a command that raises `error`."""

    def main() -> None:
        if error is not None:
            raise error

    try:
        exit_on_input_error(main)
        code = 0
    except SystemExit as leaving:
        code = leaving.code
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (InputError("no; do"), 2, "error: no; do\n"),
        (HarmError("refused: worse", Harm(0.5, 0.9, 0.1, 10, 90, "features")), 3, "error: refused: worse\n"),
        (
            Stopped("stopped in epoch 3; run the same command to resume"),
            143,
            "stopped in epoch 3; run the same command to resume\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, ""),
        (MemoryError(), 2, "error: out of memory; lower the batch size"),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"),
            2,
            "error: out of memory (Out of memory a",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 2, "error: x: no space left"),
        (OSError(errno.ELOOP, "loop", "x"), 2, "error: x: the links of this path lead in a circle"),
        (IsADirectoryError(errno.EISDIR, "dir", "x"), 2, "error: x: this is a folder"),
        (OSError(errno.ENAMETOOLONG, "long", "x"), 2, "error: x: this name is too long"),
        (OSError(errno.EMFILE, "many", "x"), 2, "error: x: too many open files"),
        (None, 0, ""),
    ],
    ids=repr,
)
def test_what_is_not_our_fault_ends_in_one_line(error, code, words, capsys):
    found, output = ending(capsys, error)
    assert found == code
    assert output.startswith(words)
    assert output.count("\n") == bool(words)


@pytest.mark.parametrize(
    "error", [ValueError("ours"), KeyError("ours"), RuntimeError("ours"), OSError("ours")], ids=repr
)
def test_our_own_fault_keeps_its_traceback(error, capsys):
    with pytest.raises(type(error)):
        ending(capsys, error)


def test_a_message_is_one_short_line_without_control_characters(capsys):
    _, output = ending(capsys, InputError(f"bad\nname \x1b[31m{'x' * 100_000}\ud800 {'y ' * 100_000}; give another"))
    assert output.count("\n") == 1
    assert output.rstrip("\n").isprintable()
    assert len(output) < 1000
    assert output.endswith("give another\n")


def test_a_message_that_fits_is_not_changed():
    message = "runs/ä: unknown model 'resnet9'; choose one of: resnet8, résumé"
    assert one_line(message) == message


def test_values_are_cut_in_the_middle():
    assert shown("a" * 50 + "b" * 1000).endswith("bbb'")
    assert len(shown("a" * 1000)) == 80
    assert shown(float("nan")) == "nan"
    assert "aaa" in str(unknown("method", "a" * 1000, ["osp"]))
    assert len(str(unknown("method", "a" * 1000, ["osp"]))) < 150


@pytest.mark.parametrize("character", ["\x00", "\x07", "\x1b", "\n", "\x7f", "\x9b", "\u202e", "\u2028", "\udc80"])
def test_control_characters_are_escaped(character):
    assert printable(f"a{character}b").isprintable()
    assert printable(f"a{character}b").startswith("a\\")


def test_a_closed_pipe_is_reported_by_the_exit_code_alone(capsys, monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with open(write, "w", encoding="utf-8") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        with pytest.raises(SystemExit) as leaving:
            exit_on_input_error(print, "hello")
        closed.write("what the interpreter writes at its end")
    assert leaving.value.code == 141
    assert capsys.readouterr().err == ""


def test_help_into_a_closed_pipe_ends_in_silence(monkeypatch):
    def usage() -> None:
        print("usage")
        sys.exit(0)

    read, write = os.pipe()
    os.close(read)
    with open(write, "w", encoding="utf-8") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        with pytest.raises(SystemExit) as leaving:
            exit_on_input_error(usage)
    assert leaving.value.code == 141


def test_what_a_failure_leaves_behind_is_not_warned_of(recwarn):
    def main():
        raise InputError("no such file; give another")

    with pytest.raises(SystemExit):
        exit_on_input_error(main)
    warnings.warn("coroutine was never awaited", RuntimeWarning, stacklevel=1)
    assert not recwarn.list
