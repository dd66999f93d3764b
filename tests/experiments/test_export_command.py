"""`experiments.export` writes one whole file, describes it in one line, and changes nothing else."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from osp_jax.loading import load_workdir
from osp_jax.trees import leaves_by_path
from tests.experiments.conftest import assert_one_line_error, run_command


def export(workdir: Path, out: Path, *options: str):
    return run_command("experiments.export", f"--workdir={workdir}", f"--out={out}", *options)


def content(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_a_trained_network_becomes_safetensors_with_its_variables(trained, tmp_path):
    before = content(trained)
    done = export(trained, tmp_path / "digits")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"wrote {tmp_path / 'digits'}: safetensors, ")
    found, expected = load_file(tmp_path / "digits"), leaves_by_path(load_workdir(trained).model.variables)
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_array_equal(found[path], leaf)
    assert content(trained) == before
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


def test_the_suffix_names_the_format_and_the_flag_overrules_it(trained, tmp_path):
    assert "npz, " in export(trained, tmp_path / "w.npz").stdout
    assert "msgpack, " in export(trained, tmp_path / "v.npz", "--format=msgpack").stdout
    assert "orbax, " in export(trained, tmp_path / "folder", "--format=orbax").stdout
    assert (tmp_path / "folder").is_dir()


def test_a_stablehlo_program_says_what_was_checked(trained, tmp_path):
    done = export(trained, tmp_path / "digits.stablehlo")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    for part in ("stablehlo, for cpu, cuda, tpu, images NHWC", "of the largest, in batches of 1 and 3"):
        assert part in line


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("w.pb", ["--format=tf"], ["unknown format 'tf'", "safetensors", "onnx"]),
        ("there.npz", [], ["there.npz exists", "--overwrite"]),
        ("folder", [], ["is a folder", "as a file"]),
        ("folder", ["--format=orbax", "--overwrite"], ["holds letter.txt"]),
        ("there.npz/below.npz", [], ["there.npz"]),
        ("model/w.npz", [], ["lies in", "--out"]),
    ],
)
def test_what_cannot_be_written_is_refused_in_one_line(name, options, words, trained, tmp_path):
    (tmp_path / "there.npz").write_bytes(b"mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "letter.txt").touch()
    out = trained / "w.npz" if name.startswith("model/") else tmp_path / name
    done = export(trained, out, *options)
    assert_one_line_error(done.returncode, done.stderr, *words)
    assert (tmp_path / "there.npz").read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "there.npz"]
    assert not (trained / "w.npz").exists()


def test_overwrite_replaces_a_file(trained, tmp_path):
    (tmp_path / "w.npz").write_bytes(b"old")
    assert export(trained, tmp_path / "w.npz", "--overwrite").returncode == 0
    assert len(np.load(tmp_path / "w.npz", allow_pickle=False)) > 10
