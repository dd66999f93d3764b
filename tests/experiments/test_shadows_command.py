"""`experiments.shadows` from the shell: two sets, found again, and one line for invalid input."""

import json
import shutil

from osp_jax.runtime.integrity import read_piece, write_sums
from tests.experiments.conftest import assert_one_line_error, run_cases, run_command


def test_shadow_models_are_trained_by_the_recipe_of_a_workdir_and_once_only(trained, tmp_path):
    def run(*more: str, devices: int = 1) -> list[str]:
        arguments = [f"--workdir={trained}", "--number=4", "--epochs=1", f"--out={tmp_path / 'sets'}"]
        done = run_command("experiments.shadows", *arguments, *more, devices=devices)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    every, without = run("--forget=3", devices=2)
    assert "4 shadow models of all classes" in every
    assert "all but 3" in without
    folders = {path.name: read_piece(path / "record.json") for path in (tmp_path / "sets").iterdir()}
    assert sorted(record["exclude"] for record in folders.values()) == [[], [3]]
    for name, record in folders.items():
        assert any(name in line for line in (every, without))
        assert record["config"]["training"]["epochs"] == len(record["epochs"]) == 1
        assert record["config"]["model"]["width"] == 4
        assert record["images"] == 1797  # what the original was trained on, and the test images
        assert {"command", "commit", "device"} <= record["provenance"].keys()
    assert run("--forget=3") == [every, without]


def test_shadows_answers_bad_input_in_one_line_and_writes_nothing(trained, tmp_path):
    def copy(name: str, section: str, field: str, value: object) -> str:
        workdir = shutil.copytree(trained, tmp_path / name)
        record = json.loads((workdir / "config.json").read_text())
        record["config"][section][field] = value
        (workdir / "config.json").write_text(json.dumps(record))
        write_sums(workdir, ["config.json"])
        return f"--workdir={workdir}"

    good, forget, out = f"--workdir={trained}", "--forget=3", f"--out={tmp_path / 'out'}"
    cases = [
        ([good, forget, out, "--number=5"], ["5 shadow models", "even number"]),
        ([good, forget, out, "--number=2"], ["at least 4"]),
        ([good, out, "--forget=cat"], ["unknown class 'cat'"]),
        ([good, out, "--forget="], ["no class to forget"]),
        ([good, forget, out, "--epochs=-1"], ["--epochs=-1"]),
        ([good, forget], ["--out"]),
        ([good, forget, out, "--coordinator=head:1"], ["in one process"]),
        ([f"--workdir={tmp_path / 'nothing'}", forget, out], ["does not exist"]),
        ([copy("started", "training", "start_from", "elsewhere"), forget, out], ["training.start_from"]),
        ([copy("large", "training", "batch_size", 1000), forget, out], ["batch_size 1000", "smallest shadow model"]),
        (
            [copy("without", "data", "exclude", "3"), forget, out],
            ["class 3 (3) is forgotten already, or was left out of the training"],
        ),
    ]
    results = run_cases("experiments.shadows", [arguments for arguments, _ in cases])
    for (_, words), (code, stderr) in zip(cases, results, strict=True):
        assert_one_line_error(code, stderr, *words)
    assert not (tmp_path / "out").exists()
