"""The commands from the shell: their results, and their messages for invalid input."""

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from osp_jax import statistics_files
from osp_jax.loading import load_workdir
from osp_jax.runtime.integrity import read_piece, write_piece, write_sums
from osp_jax.runtime.workdir import write_json
from tests.experiments.conftest import ROOT, TINY, assert_one_line_error, environment, run_cases, run_command

COMPARISON = [
    "--config=configs/benchmark/digits.py",
    "--config.original.model.width=4",
    "--config.original.training.epochs=2",
    "--config.tuning.trials=2",
]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def unlearned(trained: Path) -> Path:
    out = trained.with_name("unlearned")
    request = (f"--workdir={trained}", "--forget=3", "--method=osp-fit", f"--out={out}", "--accept")
    done = run_command("experiments.unlearn", *request)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def retrained(trained: Path) -> Path:
    workdir = trained.with_name("retrained")
    done = run_command("experiments.train", f"--workdir={workdir}", *TINY, "--config.data.exclude=3")
    assert done.returncode == 0, done.stderr
    return workdir


def test_training_writes_the_workdir_of_the_contract(trained):
    names = {path.name for path in trained.iterdir()}
    assert names == {"config.json", "metrics.jsonl", "checkpoints", "statistics", "SHA256SUMS"}
    record = json.loads((trained / "config.json").read_text())
    assert record["config"]["model"]["width"] == 4
    assert {"command", "commit", "seed", "versions", "device"} <= record["provenance"].keys()
    epochs = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [epoch["epoch"] for epoch in epochs] == [1, 2]
    assert {"loss", "accuracy", "penalty", "gram_error", "images_per_second"} <= epochs[0].keys()


def test_a_finished_training_does_nothing_when_run_again(trained):
    before = contents(trained)
    assert run_command("experiments.train", f"--workdir={trained}", *TINY).returncode == 0
    assert contents(trained) == before


def test_damaged_statistics_of_a_finished_training_are_named(trained, tmp_path):
    workdir = shutil.copytree(trained, tmp_path / "model")
    file = max((workdir / "statistics").rglob("d/*"), key=lambda path: path.stat().st_size)
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])
    done = run_command("experiments.train", f"--workdir={workdir}", *TINY)
    assert_one_line_error(done.returncode, done.stderr, str(file), "is damaged", "delete")


def test_statistics_of_training_cover_every_training_image(trained):
    statistics = statistics_files.load_statistics(trained / "statistics")
    for layer in statistics.layers.values():
        assert layer.count.sum() == 1437
    assert statistics.features.shape == (200, 16)


def test_unlearning_writes_what_it_did(trained, unlearned):
    record = json.loads((unlearned / "unlearn.json").read_text())
    assert record["forget"] == [3]
    assert record["method"] == "osp-fit"
    assert set(record["seconds"]) == {"statistics", "compile", "cold", "warm_median", "warm_p95"}
    assert sum(record["data_seen"]["statistics"]["train"].values()) == 1437
    assert sum(record["data_seen"]["request"]["train"].values()) == 0
    before, after = load_workdir(trained).model.variables, load_workdir(unlearned).model.variables
    differing = sum(int(np.sum(a != b)) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True))
    assert record["parameters_changed"] == differing > 0
    (channels,) = record["channels"].values()
    assert list(record["masked_channels"].values()) == [sum(factor < 1 for factor in channels["factor"])]


def test_a_second_request_knows_what_is_gone(trained, unlearned, retrained, tmp_path):
    """The first request forgot 3. The second sees no image of it, and is evaluated for both."""
    twice = tmp_path / "twice"
    second = [f"--workdir={unlearned}", "--method=finetune", "--option=epochs=1", "--accept", f"--out={twice}"]
    done = run_command("experiments.unlearn", *second, "--forget=5")
    assert done.returncode == 0, done.stderr
    record = json.loads((twice / "unlearn.json").read_text())
    assert (record["forget"], record["forgotten"]) == ([5], [3, 5])
    assert (record["original"], record["trained"]) == (str(unlearned), str(trained))
    assert [step["method"] for step in record["earlier"]] == ["osp-fit"]
    assert set(record["data_seen"]["request"]["train"]) == set("012346789") - {"3"}
    assert record["data_seen"]["statistics"]["train"]["3"] == 0
    assert json.loads((twice / "config.json").read_text())["forgotten"] == [3, 5]
    assert load_workdir(twice).model.forgotten == (3, 5)

    done = run_command("experiments.eval", f"--workdir={twice}", "--audit=none")
    assert done.returncode == 0, done.stderr
    evaluation = json.loads((twice / "eval.json").read_text())
    assert evaluation["forget"] == [3, 5]
    assert evaluation["original"]["test_forget_accuracy"] > 0.5  # the network before both requests

    done = run_command("experiments.eval", f"--workdir={twice}", f"--reference={retrained}", "--audit=none")
    assert_one_line_error(done.returncode, done.stderr, "without classes [3]", "--config.data.exclude=3,5")
    done = run_command("experiments.unlearn", *second[:-1], "--forget=3", f"--out={tmp_path / 'again'}")
    assert_one_line_error(done.returncode, done.stderr, "class 3 (3) is forgotten already")


def test_a_mask_leaves_no_statistics_of_the_class_behind(unlearned):
    statistics = statistics_files.load_statistics(unlearned / "statistics")
    assert 3 not in statistics.classes_seen()
    assert 3 not in np.asarray(statistics.labels)


def test_eval_reports_every_model_of_the_contract(unlearned, retrained, tmp_path):
    copy = shutil.copytree(unlearned, tmp_path / "copy")
    done = run_command("experiments.eval", f"--workdir={unlearned}", f"--workdir={copy}", f"--reference={retrained}")
    assert done.returncode == 0, done.stderr
    evaluation, of_copy = (json.loads((folder / "eval.json").read_text()) for folder in (unlearned, copy))
    for name in ("original", "unlearned", "retrained"):
        assert of_copy[name] == evaluation[name]
    for name in ("original", "unlearned", "retrained", "logit_masked"):
        model = evaluation[name]
        confusion = np.array(model["confusion"])
        assert confusion.sum() == 360
        correct = np.diag(confusion)
        kept = np.arange(10) != 3
        assert model["test_retain_accuracy"] == pytest.approx(correct[kept].sum() / confusion[kept].sum())
        assert model["test_forget_accuracy"] == pytest.approx(correct[3] / confusion[3].sum())
        assert sum(model["forgotten_predictions"]["3"].values()) == pytest.approx(1)
    assert evaluation["logit_masked"]["test_forget_accuracy"] == 0
    assert evaluation["retrained"]["train_forget_accuracy"] == 0
    questions = {"accuracy", "membership", "relearning", "probes", "representation", "recovery"}
    for name in ("original", "unlearned", "retrained"):
        assert evaluation[name]["measures"].keys() == questions
        assert evaluation[name]["curves"].keys() == {"roc", "relearning", "map", "cka"}
    assert evaluation["audit"]["level"] == "quick"
    assert "Retrained" in (unlearned / "report.md").read_text()
    assert (unlearned / "report.html").read_text().lower().startswith("<!doctype html>")


def test_a_plain_model_can_be_evaluated_too(trained, tmp_path):
    workdir = shutil.copytree(trained, tmp_path / "copy")
    done = run_command("experiments.eval", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    evaluation = json.loads((workdir / "eval.json").read_text())
    assert evaluation["forget"] == []
    assert evaluation["original"]["test_forget_accuracy"] is None


def test_statistics_are_collected_where_none_are_stored(trained, tmp_path):
    workdir = shutil.copytree(trained, tmp_path / "copy")
    shutil.rmtree(workdir / "statistics")
    outs = []
    for source in (trained, workdir):
        outs.append(tmp_path / f"out_{source.name}")
        done = run_command("experiments.unlearn", f"--workdir={source}", "--forget=3", f"--out={outs[-1]}", "--accept")
        assert done.returncode == 0, done.stderr
    first, second = (jax.tree.leaves(load_workdir(out).model.variables) for out in outs)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_method_that_trains_records_what_it_saw_and_leaves_no_statistics_of_another_network(trained, tmp_path):
    options = ["--option=epochs=1", "--option=batch_size=64", "--retain_per_class=20", f"--out={tmp_path / 'out'}"]
    request = [f"--workdir={trained}", "--forget=3", "--method=finetune", "--accept", *options]
    done = run_command("experiments.unlearn", *request)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "unlearn.json").read_text())
    assert record["data_seen"]["request"]["train"] == {str(c): 20 for c in range(10) if c != 3}
    assert record["budget"] == {"retain_per_class": 20, "forget_per_class": None}
    assert record["channels"] == {}
    assert not (tmp_path / "out" / "statistics").exists()


def test_the_benchmark_compares_methods_and_goes_on_where_it_was(tmp_path):
    arguments = [f"--workdir={tmp_path}", *COMPARISON, "--methods=logit-mask,osp", "--forget=3"]
    done = run_command("experiments.benchmark", *arguments)
    assert done.returncode == 0, done.stderr
    names = {path.name for path in tmp_path.iterdir()}
    results = {"results.json", "table.md", "table.tex", "report.html"}
    assert names == {"config.json", "seed0", "tuning", "SHA256SUMS"} | results
    before = contents(tmp_path / "seed0")
    done = run_command("experiments.benchmark", *arguments, "--forget=1,2")
    assert done.returncode == 0, done.stderr
    assert before.items() <= contents(tmp_path / "seed0").items()
    results = json.loads((tmp_path / "results.json").read_text())
    assert {(cell["kind"], cell["method"]) for cell in results["cells"]} == {
        (kind, method) for kind in ("single", "2 classes") for method in ("original", "logit-mask", "osp")
    }
    done = run_command("experiments.benchmark", *arguments, "--config.tuning.trials=9")
    assert_one_line_error(done.returncode, done.stderr, "tuning.trials", "another --workdir")


def test_the_benchmark_answers_bad_input_in_one_line_before_anything_is_trained(tmp_path):
    cases = [
        (["--methods=magic"], ["unknown method 'magic'", "osp-fit"]),
        (["--forget=0,1,2,3,4,5,6,7,8,9"], ["all 10 classes"]),
        (["--seeds=one"], ["--seeds"]),
        (["--config.options=('finetune:learning_rate=-1',)"], ["learning_rate"]),
        (["--config.options=('osp:layers=stage9',)"], ["stage9", "stage3_block1"]),
        (["--config.budget.forget=0"], ["forget examples", "forget_per_class"]),
        (["--config.original.data.validation=0.0"], ["validation"]),
        (["--config.tuning.trial=3"], ["unknown config key 'trial'"]),
    ]
    arguments = [[f"--workdir={tmp_path / 'run'}", *COMPARISON, *case] for case, _ in cases]
    for (_, words), (code, stderr) in zip(cases, run_cases("experiments.benchmark", arguments), strict=True):
        assert_one_line_error(code, stderr, *words)
        assert not (tmp_path / "run").exists()


def test_the_sweep_forgets_each_class_in_turn(trained, tmp_path):
    arguments = [f"--workdir={trained}", "--methods=esc,logit-mask", "--option=esc:percent=2", f"--out={tmp_path}"]
    done = run_command("experiments.sweep", *arguments, "--probes")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert all(row["logit-mask"]["harm"]["forgotten"] == 0 for row in results["classes"])
    assert [row["class"] for row in results["classes"]] == list(range(10))
    assert all(row["logit-mask"]["forget_accuracy"] == 0 for row in results["classes"])
    assert all(0 <= row["esc"]["forget_accuracy"] <= 1 for row in results["classes"])  # it sees forgotten images
    assert results["options"]["esc"]["percent"] == 2
    for row in results["classes"]:  # what the head makes of the features does not change these
        assert {name: row["logit-mask"][name] for name in ("probe", "new_head")}.items() <= row["original"].items()
    assert "logit-mask" in (tmp_path / "table.md").read_text()


def test_where_tails_were_stored_a_request_sees_no_image(tmp_path):
    workdir, out = tmp_path / "model", tmp_path / "unlearned"
    done = run_command("experiments.train", f"--workdir={workdir}", *TINY, "--config.statistics.cached_inputs=150")
    assert done.returncode == 0, done.stderr
    request = [f"--workdir={workdir}", "--forget=3", "--method=concept-erasure", f"--out={out}", "--accept"]
    done = run_command("experiments.unlearn", *request, "--data_dir=/nowhere", "--option=directions=32")
    assert done.returncode == 0, done.stderr
    record = json.loads((out / "unlearn.json").read_text())
    assert record["data_seen"]["request"]["train"] == {}
    assert record["harm"]["source"] == "cached inputs"
    assert not (out / "statistics").exists()


def test_a_sweep_of_some_classes_that_was_stopped_continues_after_the_last_one(trained, tmp_path):
    arguments = [f"--workdir={trained}", "--methods=logit-mask", "--classes=0,3,8,9", f"--out={tmp_path}"]
    command = [sys.executable, "-m", "experiments.sweep", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment()) as process:
        process.stdout.readline()
        process.kill()
    first = tmp_path / "unfinished" / "classes" / "0.json"
    write_piece(first, read_piece(first) | {"name": "as it was"})
    other = run_command("experiments.sweep", *arguments, "--seed=1")
    assert (other.returncode, "seed" in other.stderr) == (2, True)
    done = run_command("experiments.sweep", *arguments)
    assert done.returncode == 0, done.stderr
    names = [row["name"] for row in json.loads((tmp_path / "results.json").read_text())["classes"]]
    assert names == ["as it was", "3", "8", "9"]
    assert not (tmp_path / "unfinished").exists()


def test_unlearn_answers_bad_input_in_one_line_and_leaves_all_as_it_was(trained, tmp_path):
    (tmp_path / "empty").mkdir()
    damaged = shutil.copytree(trained, tmp_path / "damaged")
    for path in (damaged / "checkpoints").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    other = shutil.copytree(trained, tmp_path / "other")
    record = json.loads((other / "config.json").read_text())
    record["config"]["model"]["name"] = "vgg11"
    write_json(other / "config.json", record)
    write_sums(other, ["config.json"])
    bare = shutil.copytree(trained, tmp_path / "bare")
    shutil.rmtree(bare / "checkpoints")
    existing = tmp_path / "existing"
    existing.mkdir()
    (existing / "precious").write_text("mine")
    before = contents(tmp_path) | contents(trained)

    out = f"--out={tmp_path / 'out'}"
    good = [f"--workdir={trained}", out]
    cases = [
        ([*good, "--forget=cat"], ["unknown class 'cat'", "0 to 9"]),
        ([*good, "--forget=10"], ["unknown class '10'"]),
        ([*good, "--forget="], ["no class to forget", "--forget=3"]),
        ([*good, "--forget=0,1,2,3,4,5,6,7,8,9"], ["all 10 classes"]),
        ([*good, "--forget=3", "--method=magic"], ["unknown method 'magic'", "osp-fit"]),
        ([*good, "--forget=3", "--option=strengh=hard", "--method=osp"], ["unknown option 'strengh'", "strength"]),
        ([*good, "--forget=3", "--option=amount=much", "--method=osp"], ["amount", "float"]),
        ([*good, "--forget=3", "--option=layers=stage9", "--method=osp"], ["stage9", "stage3_block1"]),
        ([*good, "--forget=3", "--method=finetune", "--retain_per_class=-1"], ["retain_per_class", "in the range [0,"]),
        ([*good, "--forget=3", "stray"], ["stray"]),
        ([*good, "--forgt=3"], ["forgt"]),
        ([f"--workdir={trained}", "--forget=3"], ["--out"]),
        ([f"--workdir={tmp_path / 'empty'}", "--forget=3", out], ["config.json"]),
        ([f"--workdir={bare}", "--forget=3", out], ["no checkpoint"]),
        ([f"--workdir={damaged}", "--forget=3", out], [str(damaged), "damaged"]),
        ([f"--workdir={other}", "--forget=3", out], [str(other), "another model"]),
        ([f"--workdir={trained}", "--forget=3", f"--out={existing}"], ["--overwrite"]),
        (
            [f"--workdir={trained}", "--forget=3", "--accept", "--out=/proc/nowhere/x"],
            ["cannot write", "/proc/nowhere"],
        ),
        ([*good, "--forget=3", "--max_forgotten=101"], ["max_forgotten", "in the range [0.0, 100.0]"]),
        ([*good, "--forget=3", "--max_retained_drop=nan"], ["max_retained_drop is nan"]),
        ([*good, "--forget=3", "--coordinator=head:1"], ["--num_processes"]),
    ]
    for (arguments, words), (code, stderr) in zip(
        cases, run_cases("experiments.unlearn", [arguments for arguments, _ in cases]), strict=True
    ):
        assert_one_line_error(code, stderr, *words)
        assert not (tmp_path / "out").exists(), arguments
    assert contents(tmp_path) | contents(trained) == before


def test_eval_answers_bad_input_in_one_line(trained, unlearned, retrained, tmp_path):
    rounded = shutil.copytree(retrained, tmp_path / "rounded")
    record = json.loads((rounded / "config.json").read_text())
    record["config"]["model"]["dtype"] = "bfloat16"
    write_json(rounded / "config.json", record)
    write_sums(rounded, ["config.json"])
    moved = shutil.copytree(unlearned, tmp_path / "moved")
    record = json.loads((moved / "unlearn.json").read_text())
    write_json(moved / "unlearn.json", record | dict.fromkeys(("original", "trained"), str(tmp_path / "gone")))
    write_sums(moved, ["unlearn.json"])
    shapes = shutil.copytree(trained, tmp_path / "shapes")
    record = json.loads((shapes / "config.json").read_text())
    record["dataset"]["image_shape"] = [16, 16, 1]
    write_json(shapes / "config.json", record)
    write_sums(shapes, ["config.json"])
    before = contents(unlearned)
    cases = [
        ([f"--workdir={unlearned}", f"--reference={trained}"], ["--config.data.exclude=3"]),
        ([f"--workdir={moved}"], [str(tmp_path / "gone")]),
        ([f"--workdir={tmp_path / 'nothing'}"], ["does not exist"]),
        ([f"--workdir={shapes}"], ["image_shape"]),
        ([f"--workdir={unlearned}", "--audit=full"], ["a full audit compares with a retrained model", "exclude=3"]),
        ([f"--workdir={unlearned}", "--audit=full", f"--reference={retrained}"], ["experiments.shadows", "--forget=3"]),
        (
            [f"--workdir={unlearned}", "--audit=full", f"--reference={retrained}", f"--shadows={tmp_path / 'none'}"],
            ["holds no finished shadow models", "experiments.shadows"],
        ),
        ([f"--workdir={unlearned}", f"--reference={rounded}"], ["another network", "bfloat16", "config.model"]),
        ([f"--workdir={unlearned}", "--audit=some"], ["audit", "quick"]),
        ([f"--workdir={unlearned}", "--draws=0"], ["draws", "1, 1000"]),
        ([f"--workdir={unlearned}", f"--workdir={trained}"], ["not both made to forget", "one by one"]),
    ]
    results = run_cases("experiments.eval", [arguments for arguments, _ in cases])
    for (_, words), (code, stderr) in zip(cases, results, strict=True):
        assert_one_line_error(code, stderr, *words)
    assert contents(unlearned) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config.data.name=cifar11"], ["unknown data set", "cifar10"]),
        (["--config.model.name=resnet9"], ["unknown model 'resnet9'", "resnet8"]),
        (["--config.training.epoch=3"], ["unknown config key 'epoch'", '"epochs"']),
        (["--config.training.epochs=many"], ["epochs"]),
        (["--config=configs/nothing.py"], ["configs/nothing.py"]),
        (["--config.orthogonality.penalty=sos"], ["unknown orthogonality penalty 'sos'", "srip"]),
        (["--config.data.exclude=0,1,2,3,4,5,6,7,8,9"], ["exclude"]),
        (["--config.data.exclude=seven"], ["unknown class 'seven'"]),
    ],
)
def test_train_answers_bad_input_in_one_line_and_writes_nothing(arguments, words, tmp_path):
    config = [] if any(a.startswith("--config=") for a in arguments) else ["--config=configs/digits.py"]
    done = run_command("experiments.train", f"--workdir={tmp_path / 'run'}", *config, *arguments)
    assert_one_line_error(done.returncode, done.stderr, *words)
    assert not (tmp_path / "run").exists()


def test_train_without_network_or_data_names_the_folder_for_the_archive(tmp_path):
    config = ["--config=configs/digits.py", "--config.data.name=cifar10", f"--config.data.dir={tmp_path}"]
    done = run_command("experiments.train", f"--workdir={tmp_path / 'run'}", *config)
    assert_one_line_error(done.returncode, done.stderr, str(tmp_path / "downloads"), "cifar-10-binary.tar.gz")


def test_the_generated_parts_of_the_documents_are_up_to_date():
    done = run_command("experiments.tables", "--check")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("folder", ["configs", "configs.benchmark"])
def test_every_config_of_a_folder_has_exactly_the_fields_of_its_default(folder):
    def fields(name: str) -> set[str]:
        return set(flatten_dict(importlib.import_module(f"{folder}.{name}").get_config().to_dict(), sep="."))

    for path in sorted(ROOT.joinpath(*folder.split(".")).glob("[!_]*.py")):
        assert fields(path.stem) == fields("default"), path.name
