"""Requests prepared in a workdir: found, resumed, refused for another model, and removed with their class."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from osp_jax.loading import load_workdir
from osp_jax.runtime.integrity import SUMS, check_sums, write_sums
from osp_jax.trees import differing_paths
from tests.experiments.conftest import assert_one_line_error, run_command


def run(command: str, workdir: Path, *flags: str):
    return run_command(f"experiments.{command}", f"--workdir={workdir}", *flags)


def unlearn(workdir: Path, out: Path, *flags: str):
    return run("unlearn", workdir, f"--out={out}", "--accept", *flags)


def places(workdir: Path) -> list[Path]:
    return sorted(path for path in workdir.glob("prepared/*/*") if path.is_dir())


@pytest.fixture(scope="module")
def prepared(trained: Path) -> Path:
    workdir = shutil.copytree(trained, trained.with_name("prepared_model"))
    done = run("prepare", workdir, "--classes=3,5")
    assert done.returncode == 0, done.stderr
    assert "prepared 3:" in done.stdout
    return workdir


@pytest.fixture
def copy(prepared: Path, tmp_path: Path) -> Path:
    return shutil.copytree(prepared, tmp_path / "model")


def variables(workdir: Path):
    return load_workdir(workdir).model.variables


def test_what_was_prepared_is_listed_in_the_checksums(prepared):
    assert [place.name for place in places(prepared)] == ["3", "5"]
    listed = (prepared / SUMS).read_text()
    for place in places(prepared):
        assert f"{place.relative_to(prepared)}/{SUMS}" in listed
        assert check_sums(place, "", required=("changes.npz", "record.json"), complete=True)
        assert json.loads((place / "record.json").read_text())["harm"]["source"] == "features"


def test_a_prepared_request_writes_the_same_model_and_forgets_its_preparation(copy, tmp_path):
    done = unlearn(copy, tmp_path / "fast", "--forget=3", "--time")
    direct = unlearn(copy, tmp_path / "direct", "--forget=3", "--noprepared")

    assert (done.returncode, direct.returncode) == (0, 0), done.stderr + direct.stderr
    assert "osp-fit, prepared:" in done.stdout
    records = [json.loads((tmp_path / name / "unlearn.json").read_text()) for name in ("fast", "direct")]
    assert records[0]["prepared"] | {"seconds": 0, "bytes": 0} == {
        "way": "alone",
        "exact": True,
        "seconds": 0,
        "bytes": 0,
        "data_seen": [{}],
    }
    assert records[1]["prepared"] is None
    same = ("method", "options", "forget", "harm", "channels", "parameters_changed", "data_seen")
    assert {key: records[0][key] for key in same} == {key: records[1][key] for key in same}
    assert not differing_paths(variables(tmp_path / "direct"), [variables(tmp_path / "fast")])
    assert not (tmp_path / "fast" / "prepared").exists()
    assert [place.name for place in places(copy)] == ["5"]
    assert "/3/" not in (copy / SUMS).read_text()


def test_what_is_kept_on_request_stays(copy, tmp_path):
    assert unlearn(copy, tmp_path / "out", "--forget=3", "--keep_prepared").returncode == 0
    assert [place.name for place in places(copy)] == ["3", "5"]


def test_a_set_is_composed(copy, tmp_path):
    done = unlearn(copy, tmp_path / "out", "--forget=3,5")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "unlearn.json").read_text())["prepared"]["way"] == "composed"
    assert places(copy) == []


@pytest.mark.parametrize("flags", [["--option=margin=2.0"], ["--method=logit-mask"]])
def test_other_settings_are_not_answered_from_what_was_prepared(flags, copy, tmp_path):
    done = unlearn(copy, tmp_path / "out", "--forget=3", *flags)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "unlearn.json").read_text())["prepared"] is None


def test_the_command_goes_on_where_it_stopped(copy):
    first = places(copy)[0]
    before = first.stat().st_ino
    done = run("prepare", copy, "--classes=3,4,5")

    assert done.returncode == 0, done.stderr
    assert "2 of 3 classes are prepared already" in done.stdout
    assert [place.name for place in places(copy)] == ["3", "4", "5"]
    assert first.stat().st_ino == before


def with_other_weights(workdir: Path) -> Path:
    """As if the network had been trained again: the record of what was prepared names other weights."""
    for place in places(workdir):
        record = json.loads((place / "record.json").read_text())
        record["network"] = "0" * 64
        (place / "record.json").write_text(json.dumps(record))
        (place / SUMS).unlink()
        write_sums(place)
        write_sums(workdir, [f"{place.relative_to(workdir)}/{SUMS}"])
    return workdir


def test_what_was_prepared_for_other_weights_is_refused_and_replaced(copy, tmp_path):
    with_other_weights(copy)
    done = unlearn(copy, tmp_path / "out", "--forget=3")
    assert_one_line_error(done.returncode, done.stderr, "other weights", "experiments.prepare", "--noprepared")
    assert unlearn(copy, tmp_path / "out", "--forget=4", "--noprepared").returncode == 0

    done = run("prepare", copy, "--classes=3")
    assert "removed 2 prepared requests" in done.stdout
    assert unlearn(copy, tmp_path / "again", "--forget=3").returncode == 0


def test_what_a_killed_command_left_is_listed_and_goes_with_the_class(copy, tmp_path):
    sums = (copy / SUMS).read_text().splitlines(keepends=True)
    (copy / SUMS).write_text("".join(line for line in sums if not line.endswith(f"/5/{SUMS}\n")))
    folder = places(copy)[0].parent
    left = folder / ".3.0123abcd.osp_jax"
    (left / "content").mkdir(parents=True)
    (left / "written_by_osp_jax").write_text("3")

    assert run("prepare", copy, "--classes=3,5").returncode == 0
    assert (copy / SUMS).read_text() == "".join(sums)
    assert unlearn(copy, tmp_path / "out", "--forget=3").returncode == 0
    assert [path.name for path in folder.iterdir()] == ["5"]


def test_a_damaged_preparation_is_named(copy, tmp_path):
    file = places(copy)[0] / "changes.npz"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    done = unlearn(copy, tmp_path / "out", "--forget=3")
    assert_one_line_error(done.returncode, done.stderr, "changes.npz", "is damaged", "experiments.prepare")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--classes=11"], "unknown class"),
        (["--classes="], "no class"),
        (["--method=no-such"], "unknown method"),
        (["--option=margin=x"], "margin"),
    ],
)
def test_bad_input_is_one_line(flags, words, prepared):
    done = run("prepare", prepared, *flags)
    assert_one_line_error(done.returncode, done.stderr, words)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_read_only_workdir_can_be_asked_but_not_prepared(copy, tmp_path):
    for folder in (copy, *(path for path in copy.rglob("*") if path.is_dir())):
        folder.chmod(0o555)
    try:
        done = run("prepare", copy, "--classes=4")
        assert_one_line_error(done.returncode, done.stderr, "cannot write")
        done = unlearn(copy, tmp_path / "out", "--forget=3")
        assert done.returncode == 0, done.stderr
        assert "stay in" in done.stderr
    finally:
        for folder in (copy, *(path for path in copy.rglob("*") if path.is_dir())):
            folder.chmod(0o755)


def test_a_further_request_is_prepared_anew(copy, tmp_path):
    out = tmp_path / "out"
    assert unlearn(copy, out, "--forget=3").returncode == 0
    done = run("prepare", out, "--classes=5", "--method=logit-mask")
    assert done.returncode == 0, done.stderr
    done = unlearn(out, tmp_path / "both", "--forget=5", "--method=logit-mask")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "both" / "unlearn.json").read_text())
    assert record["prepared"]["way"] == "alone"
    assert record["forgotten"] == [3, 5]
    assert np.asarray(record["prepared"]["bytes"]) < 100
