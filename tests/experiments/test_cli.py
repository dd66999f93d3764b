"""Features shared by all commands: help, and the cache of compiled programs."""

import pytest

from tests.experiments.conftest import ROOT, assert_one_line_error, run_cases, run_command

COMMANDS = sorted(
    path.stem for path in (ROOT / "experiments").glob("*.py") if "cli.run(main" in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_tells_what_a_command_does_and_its_flags(command):
    done = run_command(f"experiments.{command}", "--help")
    assert done.returncode == 0
    assert done.stderr == ""
    assert f"experiments/{command}.py:\n  --" in done.stdout
    assert done.stdout.split("flags:")[0].strip()


@pytest.mark.parametrize("command", ["unlearn", "prepare"])
@pytest.mark.parametrize("flag", [["--method=osp-fit"], ["--method", "osp-fit"]])
def test_help_with_a_method_lists_its_options(command, flag):
    done = run_command(f"experiments.{command}", *flag, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\n  margin: float, at least 0 (default: 1.0)\n" in done.stdout


def test_help_with_an_unknown_method_is_refused():
    assert_one_line_error(*run_cases("experiments.unlearn", [["--method=osp_fit", "--help"]])[0])


@pytest.mark.parametrize("place", ["folder", "file"])
def test_compiled_programs_are_kept_in_the_user_s_cache_folder_where_there_can_be_one(
    place, trained, tmp_path, monkeypatch
):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if place == "file":
        (tmp_path / "cache").touch()
    arguments = f"--workdir={trained}", "--forget=3", "--method=logit-mask", f"--out={tmp_path / 'out'}"
    done = run_command("experiments.unlearn", *arguments)
    assert done.returncode == 0
    assert "cache" not in done.stderr
    kept = list((tmp_path / "cache" / "osp_jax").glob("*")) if place == "folder" else []
    assert bool(kept) == (place == "folder")
