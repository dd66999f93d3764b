"""Ctrl-C and SIGTERM: one line and the exit code, at any moment and in code that swallows the exception."""

import signal
import subprocess
import sys
import textwrap
import time

import pytest

from tests.experiments.conftest import ROOT, environment

WORDS = {signal.SIGINT: (130, "interrupted\n"), signal.SIGTERM: (143, "terminated\n")}

# Small programs in place of commands, which would import JAX: the handlers know nothing of what they end.
START = """
import sys, threading, time
from osp_jax.runtime import signals
from osp_jax.runtime.errors import exit_on_input_error
signals.catch()
"""
PROGRAMS = {
    "a command": """
        def main():
            print("ready", flush=True)
            time.sleep(60)
        exit_on_input_error(main)
    """,
    "imports, before the command": """
        print("ready", flush=True)
        time.sleep(60)
    """,
    "somebody who swallows the exception, and goes on": """
        def main():
            try:
                print("ready", flush=True)
                time.sleep(60)
            except BaseException:
                print("done as if nothing were", flush=True)
        exit_on_input_error(main)
    """,
    "somebody who makes advice of the exception": """
        from osp_jax.runtime.errors import InputError
        def main():
            try:
                print("ready", flush=True)
                time.sleep(60)
            except BaseException as error:
                raise InputError("damaged; delete it")
        exit_on_input_error(main)
    """,
    "a callback, which loses the exception": """
        import gc
        def callback(phase, info):
            global ready
            if not ready:
                ready = True
                print("ready", flush=True)
                time.sleep(60)
        ready = False
        def main():
            gc.callbacks.append(callback)
            gc.collect()
            time.sleep(60)
        exit_on_input_error(main)
    """,
    "somebody who prints what it catches": """
        def main():
            try:
                print("ready", flush=True)
                time.sleep(60)
            except BaseException:
                import traceback
                traceback.print_exc()
                raise
        exit_on_input_error(main)
    """,
    "an import of what crashes on exceptions, as extensions do": """
        import os, tempfile
        def main():
            with tempfile.TemporaryDirectory() as folder:
                with open(os.path.join(folder, "slow_to_import.py"), "w") as file:
                    file.write("import time; print('ready', flush=True); time.sleep(60)")
                sys.path.insert(0, folder)
                try:
                    import slow_to_import
                except BaseException:
                    os.abort()
        exit_on_input_error(main)
    """,
    "threads that would be waited for": """
        def main():
            threading.Thread(target=time.sleep, args=(60,)).start()
            print("ready", flush=True)
            time.sleep(60)
        exit_on_input_error(main)
    """,
}


def ended(process: subprocess.Popen, number: int, times: int = 1) -> tuple[int, str]:
    """(exit code, stderr) after the signal, which is sent once `process` has written a line."""
    try:
        assert process.stdout.readline()
        for _ in range(times):
            process.send_signal(number)
            time.sleep(0.05)
        _, message = process.communicate(timeout=60)
        return process.returncode, message
    finally:
        process.kill()


def started(*arguments: str) -> subprocess.Popen:
    """A process that takes SIGINT, also where the tests run in the background of a shell, which has them ignore it."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environment(), **pipes)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", WORDS, ids=lambda number: number.name)
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_signal_ends_a_command_in_one_line(program, number):
    process = started("-c", START + textwrap.dedent(PROGRAMS[program]))
    assert ended(process, number) == WORDS[number]


def test_a_second_signal_prints_no_traceback():
    assert ended(started("-c", START + textwrap.dedent(PROGRAMS["a command"])), signal.SIGINT, times=2) == (
        130,
        "interrupted\n",
    )


def test_a_signal_whose_exceptions_are_all_swallowed_ends_the_process_all_the_same():
    deaf = """
        import ctypes
        signals._GRACE = 0.1
        def main():
            print("ready", flush=True)
            libc = ctypes.CDLL(None)
            end = time.time() + 60
            while time.time() < end:
                try:
                    libc.sleep(60)
                except BaseException:
                    continue
        exit_on_input_error(main)
    """
    assert ended(started("-c", START + textwrap.dedent(deaf)), signal.SIGINT) == (130, "interrupted\n")


def test_a_signal_that_the_caller_has_us_ignore_stays_ignored():
    program = (
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        + START
        + textwrap.dedent("""
        def main():
            print("ready", flush=True)
            time.sleep(0.5)
        exit_on_input_error(main)
    """)
    )
    assert ended(started("-c", program), signal.SIGINT) == (0, "")


def test_ctrl_c_ends_a_training_in_one_line(tmp_path):
    arguments = ["--config=configs/digits.py", f"--workdir={tmp_path / 'run'}", "--config.training.epochs=1000"]
    process = started("-m", "experiments.train", *arguments, "--config.model.width=4")
    try:
        first = process.stderr.readline()
        assert first.startswith("epoch 1/1000")
        process.send_signal(signal.SIGINT)
        _, message = process.communicate(timeout=120)
    finally:
        process.kill()
    lines = [line for line in message.splitlines() if not line.startswith("epoch ")]
    assert (process.returncode, lines) == (130, ["interrupted"])


def test_a_closed_pipe_ends_a_command_without_a_traceback():
    process = started("-m", "experiments.paper", "--list", "--workdir=runs/nowhere")
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 141


def test_a_write_that_ends_after_another_failed_is_not_reported(capsys):
    from types import SimpleNamespace

    from osp_jax.runtime import signals

    def lost(error):
        return SimpleNamespace(exc_type=type(error), exc_value=error, exc_traceback=None, err_msg=None, object=None)

    signals._raise_again(lost(RuntimeError("Event loop is closed")))
    assert capsys.readouterr().err == ""
    with pytest.raises(TypeError):  # the interpreter's own hook takes only arguments of the interpreter
        signals._raise_again(lost(RuntimeError("something else")))
