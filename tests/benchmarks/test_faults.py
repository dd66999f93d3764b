"""The fault-injection harness recognises planted bad outcomes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.faults import flips, kills, malformed, trees
from benchmarks.faults.__main__ import Kept, judged
from benchmarks.faults.server import ROOT, Ended

KILLED = Ended(-9, 0.1, "", "")
DONE = Ended(0, 0.1, "", "")
REFUSED = Ended(2, 0.1, "", "error: no such model; train one\n")


@pytest.fixture
def template(tmp_path):
    folder = tmp_path / "template"
    (folder / "foreign").mkdir(parents=True)
    (folder / "foreign/notes.txt").write_text("not yours")
    for name in ("tiny.py", "plain", "circle", "circle_too"):
        (folder / name).write_text("x")
    (folder / "out").mkdir()
    (folder / "out/result").write_text("old")
    return folder


def read(out: str) -> dict:
    path = Path(out) / "result"
    if not path.parent.exists():
        return {"absent": True}
    text = path.read_text() if path.exists() else ""
    return {"result": text} if text in ("old", "new", "other") else {"unreadable": text}


def ask(function, folder, *arguments):
    return function(str(folder / arguments[0]))


SCENARIO = kills.Scenario("fake", "unlearn", ("--out=out",), ("out",), "out", read)
KNOWN = kills.Reference(4, {"result": "old"}, {"result": "new"}, ["out", "out/result", "tiny.py"])


def killed_and_again(template, tmp_path, leaves, ends="new", also=""):
    """The trial of a fake command that leaves `leaves` when it is killed, and `ends` when it runs again."""
    calls = []

    def call(module, arguments, folder, before=None):
        calls.append(module)
        text = leaves if len(calls) == 1 else ends
        if text is None:
            (folder / "out/result").unlink()
            (folder / "out").rmdir()
        else:
            (folder / "out").mkdir(exist_ok=True)
            (folder / "out/result").write_text(text)
        if len(calls) == 2 and also:
            (folder / also).write_text("")
        return KILLED if len(calls) == 1 else DONE

    return kills.kill(SCENARIO, KNOWN, template, tmp_path / "trial", 1, 0.0, call, ask)


@pytest.mark.parametrize(
    ("leaves", "outcome"),
    [("old", "as it was"), ("new", "finished"), (None, "lost"), ("ne", "half"), ("other", "mixed")],
)
def test_what_a_killed_command_leaves_is_reported(template, tmp_path, leaves, outcome):
    trial = killed_and_again(template, tmp_path, leaves)
    assert (trial["outcome"], trial["good"]) == (outcome, outcome in ("as it was", "finished"))


def test_another_end_after_a_kill_is_bad(template, tmp_path):
    trial = killed_and_again(template, tmp_path, "old", ends="other")
    assert (trial["outcome"], trial["good"]) == ("another end", False)


def test_a_temporary_file_that_stays_is_bad(template, tmp_path):
    trial = killed_and_again(template, tmp_path, "old", also=".out.new")
    assert (trial["outcome"], trial["good"]) == ("left .out.new", False)


def test_a_command_that_was_not_killed_is_not_counted(template, tmp_path):
    trial = kills.kill(SCENARIO, KNOWN, template, tmp_path / "trial", 1, 0.0, lambda *a: DONE, ask)
    assert trial["good"] is None


def test_kills_are_spread_over_all_steps():
    steps = [kills.moment(index, 30, 10) for index in range(30)]
    assert [step for step, delay in steps if not delay] == list(range(10))
    assert all(0 < delay <= kills.MILLISECONDS / 1000 for _, delay in steps[10:])


@pytest.mark.parametrize(
    ("ended", "contents", "outcome"),
    [
        (REFUSED, None, ("refused", True)),
        (DONE, {"x": 1}, ("silent, same result", False)),
        (DONE, {"x": 2}, ("silent, another result", False)),
        (Ended(0, 0.1, "", "warning: damaged\n"), {"x": 1}, ("made good with a warning", True)),
        (Ended(0, 0.1, "", "warning: damaged\n"), {"x": 2}, ("silent, another result", False)),
        (Ended(1, 0.1, "", "Traceback (most recent call last):\n"), None, ("traceback", False)),
        (Ended(2, 0.1, "", "error: a\nmore\n"), None, ("refused in other than one line", False)),
        (Ended(None, 60.0, "", ""), None, ("hangs", False)),
    ],
)
def test_what_a_flipped_byte_does_is_reported(ended, contents, outcome):
    assert flips.flip_outcome(ended, {"contents": {"x": 1}}, contents) == outcome


def test_every_file_is_flipped_and_one_byte_of_it(tmp_path):
    paths = [tmp_path / name for name in "ab"]
    for path in paths:
        path.write_bytes(bytes(100))
    found = flips.places(paths, 10)
    assert {path for path, *_ in found} == set(paths)
    for path, offset, bits in found:
        path.write_bytes(bytes(100))
        trees.flip(path, offset, bits)
        assert sum(byte != 0 for byte in path.read_bytes()) == 1


@pytest.mark.parametrize(
    ("ended", "outcome"),
    [
        (REFUSED, ("refused", True)),
        (DONE, ("accepted", False)),
        (Ended(2, 0.1, "", "error: a\nmore\n"), ("2 lines", False)),
        (Ended(2, 0.1, "", ""), ("0 lines", False)),
        (Ended(2, 11.0, "", "error: a\n"), ("takes too long", False)),
        (Ended(1, 0.1, "", "Traceback (most recent call last):\n"), ("traceback", False)),
        (Ended(None, 60.0, "", ""), ("hangs", False)),
        (Ended(-11, 0.1, "", ""), ("exit code -11", False)),
    ],
)
def test_what_malformed_input_does_is_reported(ended, outcome):
    assert malformed.malformed_outcome(ended, [], malformed.Case("fake", "unlearn", ())) == outcome


@pytest.mark.parametrize(
    ("harmful", "outcome"),
    [
        (lambda folder: (folder / "foreign/notes.txt").unlink(), "harm: deleted foreign/notes.txt"),
        (lambda folder: (folder / "foreign/notes.txt").write_text("mine"), "harm: changed foreign/notes.txt"),
        (lambda folder: os.chmod(folder / "plain", 0o600), "harm: changed plain"),
        (lambda folder: (folder / "out.new").mkdir(), "harm: left out.new"),
        (lambda folder: None, "refused"),
    ],
)
def test_harm_to_what_is_not_the_commands_own_is_bad(template, tmp_path, harmful, outcome):
    os.chmod(template / "plain", 0o644)

    def call(module, arguments, folder, before=None):
        (folder / "out").mkdir(exist_ok=True)
        harmful(folder)
        return REFUSED

    case = malformed.Case("fake", "unlearn", ("--out=out",))
    trial = malformed.one_case(case, template, tmp_path / "trial", call)
    assert (trial["outcome"], trial["good"]) == (outcome, outcome == "refused")


def test_at_least_400_malformed_calls_over_all_commands():
    found = malformed.cases()
    commands = {path.stem for path in (ROOT / "experiments").glob("*.py")} - {"__init__", "__main__", "cli"}
    assert len(found) >= 400
    assert {case.command for case in found} == commands | {"prepare"}


def test_an_error_of_the_harness_is_bad():
    def trial():
        raise ValueError("a fault of the harness")

    assert judged(trial)["good"] is False


def test_trials_of_another_commit_are_made_again(tmp_path):
    path = tmp_path / "trials.jsonl"
    Kept(path, "one").add("kills/a/0", {"good": True})
    path.write_text(path.read_text() + '{"kind": "ki')  # killed while it wrote
    assert list(Kept(path, "one").trials) == ["kills/a/0"]
    assert not Kept(path, "two").trials


@pytest.mark.slow
def test_one_trial_of_each_kind(tmp_path):
    arguments = ["--kills=8", "--flips=8", f"--scratch={tmp_path}", f"--json={tmp_path / 'found.json'}"]
    for kind, only in (
        ("kills", "kills/unlearn/000"),
        ("flips", "flips/unlearn of a model/000"),
        ("malformed", "/eval: no reference"),
    ):
        command = [sys.executable, "-m", "benchmarks.faults", f"--kinds={kind}", f"--only={only}", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        (trial,) = json.loads((tmp_path / "found.json").read_text())["trials"]
        assert trial["good"]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("--workdir=nowhere", "--forget=3", "--out=new"), ("--forget=3",)])
def test_a_forked_command_ends_as_one_of_its_own(tmp_path, arguments):
    program = (
        "import json, sys; from pathlib import Path; from benchmarks.faults import server\n"
        "cache, folder = Path(sys.argv[1]), Path(sys.argv[2]); server.start(cache)\n"
        "calls = [c('experiments.unlearn', sys.argv[3:], folder) for c in (server.call, server.call_for_real)]\n"
        "print(json.dumps([[e.code, e.stdout, e.stderr] for e in calls]))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "cache"), str(tmp_path), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    forked, real = json.loads(done.stdout.splitlines()[-1])
    assert forked == real
    assert forked[0] == 2


def test_what_a_resumed_run_drops_of_a_log_is_not_flipped(tmp_path):
    log, copy = tmp_path / "metrics.jsonl", tmp_path / "checkpoints/1/metrics.jsonl"
    copy.parent.mkdir(parents=True)
    log.write_bytes(bytes(1000))
    copy.write_bytes(bytes(10))
    assert all(offset < 10 for _, offset, _ in flips.places([log], 50))
