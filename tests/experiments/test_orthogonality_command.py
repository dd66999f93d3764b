"""`experiments.orthogonality` from the shell."""

import json

from tests.experiments.conftest import TINY, assert_one_line_error, run_cases, run_command


def test_models_trained_with_and_without_a_penalty_are_put_side_by_side(tmp_path):
    held_out = [*TINY, "--config.data.validation=0.1", "--config.training.epochs=1"]
    for name, settings in {
        "plain": ["--config.orthogonality.penalty=none"],
        "owned": ["--config.features.penalty=ownership", "--config.features.weight=1.0"],
    }.items():
        done = run_command("experiments.train", f"--workdir={tmp_path / 'models' / name}", *held_out, *settings)
        assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "models" / "owned" / "metrics.jsonl").read_text().splitlines()[0])
    assert 0 < metrics["feature_penalty"] < 1
    done = run_command("experiments.orthogonality", f"--models={tmp_path / 'models'}", f"--out={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [model["name"] for model in results["models"]] == ["owned", "plain"]
    assert "so 0.001 and ownership 1" in (tmp_path / "out" / "table.md").read_text()
    assert (tmp_path / "out" / "tradeoff.svg").read_text().startswith("<svg")


def test_bad_input_gets_one_line(trained, tmp_path):
    cases = {
        "no trained model": [f"--models={tmp_path}", f"--out={tmp_path / 'out'}"],
        "validation": [f"--models={trained.parent}", f"--out={tmp_path / 'out'}"],
    }
    for word, (code, stderr) in zip(cases, run_cases("experiments.orthogonality", list(cases.values())), strict=True):
        assert_one_line_error(code, stderr, word)
    assert not (tmp_path / "out" / "results.json").exists()
    bad = run_command("experiments.train", f"--workdir={tmp_path / 'w'}", *TINY, "--config.features.penalty=x")
    assert_one_line_error(bad.returncode, bad.stderr, "ownership")
