"""Whole runs: reproducible, resumable, and clear about invalid settings."""

import contextlib
import errno
import json
import shutil
import types

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import default
from osp_jax.data.sources import Dataset, Split
from osp_jax.loading import load_workdir
from osp_jax.networks import build_model, variable_shapes
from osp_jax.runtime.errors import InputError, Stopped, exit_on_input_error
from osp_jax.runtime.integrity import write_sums
from osp_jax.training import checkpoints as checkpoint
from osp_jax.training import loop
from osp_jax.training.loop import train

TIMES = ("seconds", "images_per_second")


def assert_equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def metrics_of(workdir) -> list[dict]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def epochs_saved(workdir) -> set[str]:
    return {path.name for path in (workdir / "checkpoints").iterdir()}


@pytest.fixture
def stop_before_save(monkeypatch):
    """Makes runs break off in the epoch given, after its metrics are written and before it is saved."""
    save = checkpoint.save_state

    def stop(at_epoch, error):
        def save_or_stop(checkpoints, epoch, state, **kwargs):
            if epoch == at_epoch:
                raise error
            save(checkpoints, epoch, state, **kwargs)

        monkeypatch.setattr(checkpoint, "save_state", save_or_stop)

    return stop


@pytest.fixture(scope="module")
def finished(tmp_path_factory, dataset):
    """A run of three epochs: its workdir and final variables."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    return workdir, train(three_epochs(), dataset, workdir)


def three_epochs() -> ConfigDict:
    config = default.get_config()
    config.model.width = 4
    config.training.epochs = 3
    config.training.batch_size = 32
    config.data.validation = 0.1
    return config


def test_the_same_seed_gives_the_same_model_to_the_bit(finished, dataset, tmp_path):
    workdir, variables = finished
    assert_equal(train(three_epochs(), dataset, tmp_path), variables)
    assert metrics_of(tmp_path) == metrics_of(workdir)


def test_a_run_starts_from_the_parameters_of_another_where_it_is_told_to(finished, dataset, tmp_path):
    workdir, variables = finished
    config = three_epochs()
    config.training.epochs = 1
    config.training.learning_rate = 0.0
    config.training.start_from = str(workdir)
    assert_equal(train(config, dataset, tmp_path)["params"], variables["params"])


def test_a_run_without_a_class_does_not_start_from_a_network_that_saw_it(finished, dataset, tmp_path):
    config = three_epochs()
    config.training.epochs, config.training.learning_rate = 1, 0.0
    config.training.start_from, config.data.exclude = str(finished[0]), "1"
    with pytest.raises(InputError, match="was trained on 1;"):
        train(config, dataset, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()

    config.training.start_from = ""
    variables = train(config, dataset, tmp_path / "first")
    config.training.start_from = str(tmp_path / "first")
    assert_equal(train(config, dataset, tmp_path / "second")["params"], variables["params"])


def test_a_run_does_not_start_from_a_network_that_was_made_to_forget(finished, dataset, tmp_path):
    unlearned = shutil.copytree(finished[0], tmp_path / "unlearned")
    (unlearned / "unlearn.json").touch()
    config = three_epochs()
    config.training.start_from = str(unlearned)
    with pytest.raises(InputError, match="was made to forget classes, which a training could restore"):
        train(config, dataset, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_writes_what_later_commands_read(finished, dataset):
    workdir, variables = finished
    trained = load_workdir(workdir)
    assert_equal(trained.model.variables, variables)
    pixels = dataset.train.images[loop.training_indices(three_epochs(), dataset)[0]] / 255
    assert trained.record["dataset"]["num_train"] == len(dataset.train.labels)
    np.testing.assert_allclose(trained.record["dataset"]["mean"], [pixels.mean()], rtol=1e-6)
    np.testing.assert_allclose(trained.record["dataset"]["std"], [pixels.std()], rtol=1e-6)
    assert trained.record["config"] == json.loads(json.dumps(three_epochs().to_dict()))


def test_each_epoch_is_logged_once_with_all_its_figures(finished):
    lines = metrics_of(finished[0])
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert [line["step"] for line in lines] == [2, 4, 6]
    for name in ("loss", "accuracy", "penalty", "penalty_weight", "learning_rate", "validation_accuracy"):
        assert all(np.isfinite(line[name]) for line in lines)
    assert len(lines[0]["gram_error"]) == 9  # of every convolution of ResNet-8


def test_another_seed_gives_another_model(finished, config, dataset, tmp_path):
    config.seed, config.training.epochs = 1, 1
    kernels = train(config, dataset, tmp_path)["params"]["stem_conv"], finished[1]["params"]["stem_conv"]
    assert (kernels[0]["kernel"] != kernels[1]["kernel"]).all()


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_run_that_broke_off_ends_like_one_that_did_not(epoch, finished, dataset, tmp_path, stop_before_save):
    stop_before_save(epoch, RuntimeError("power failure"))
    with pytest.raises(RuntimeError, match="power failure"):
        train(three_epochs(), dataset, tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "lo')  # cut off in the midst of a line
    stop_before_save(None, None)
    assert_equal(train(three_epochs(), dataset, tmp_path), finished[1])
    assert metrics_of(tmp_path) == metrics_of(finished[0])
    assert epochs_saved(tmp_path) == epochs_saved(finished[0]) == {"2", "3"}


def test_a_finished_run_is_not_trained_again(finished, dataset, monkeypatch):
    workdir, variables = finished
    before = (workdir / "metrics.jsonl").read_text()
    monkeypatch.setattr(loop, "_append", lambda *_: pytest.fail("trained again"))
    assert_equal(train(three_epochs(), dataset, workdir), variables)
    assert (workdir / "metrics.jsonl").read_text() == before


def test_a_damaged_newest_checkpoint_is_reported_instead_of_trained_over(finished, dataset, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "3" / "optimiser" / "ocdbt.process_0")
    with pytest.raises(InputError, match=r"is missing; restore it, or delete .*checkpoints/3 and run the same command"):
        train(three_epochs(), dataset, workdir)
    shutil.rmtree(workdir / "checkpoints" / "3")
    assert_equal(train(three_epochs(), dataset, workdir), finished[1])
    assert_equal(load_workdir(workdir).model.variables, finished[1])


@pytest.mark.parametrize("whole", [True, False])
def test_a_run_that_goes_on_notices_or_heals_a_flipped_byte(
    whole, finished, dataset, tmp_path, stop_before_save, capsys
):
    if not whole:
        stop_before_save(3, RuntimeError("power failure"))
        with pytest.raises(RuntimeError, match="power failure"):
            train(three_epochs(), dataset, tmp_path / "stopped")
        stop_before_save(None, None)
    source, rng = finished[0] if whole else tmp_path / "stopped", np.random.default_rng(0)
    newest = f"checkpoints/{3 if whole else 2}"
    arrays = max((source / newest / "variables" / "d").iterdir(), key=lambda path: path.stat().st_size)
    names = ["config.json", "metrics.jsonl", "SHA256SUMS", f"{newest}/SHA256SUMS", f"{newest}/metrics.jsonl"]
    for name in [*names, arrays.relative_to(source)]:
        workdir = shutil.copytree(source, tmp_path / "run")
        content = bytearray((workdir / name).read_bytes())
        # What was logged after the checkpoint is not read.
        end = content.index(b"\n") if name == "metrics.jsonl" else len(content)
        content[rng.integers(end)] ^= 1 << int(rng.integers(8))
        (workdir / name).write_bytes(content)
        if name == "metrics.jsonl":
            assert_equal(train(three_epochs(), dataset, workdir), finished[1])
            assert metrics_of(workdir) == metrics_of(finished[0])
            assert f"warning: {workdir / name} is damaged; it is restored" in capsys.readouterr().err
        else:
            with pytest.raises(InputError, match=r"is damaged"):
                train(three_epochs(), dataset, workdir)
        shutil.rmtree(workdir)


def test_only_the_newest_checkpoints_are_kept_and_the_last_epoch_always(config, dataset, tmp_path):
    config.training.epochs, config.checkpoint.every, config.checkpoint.keep = 5, 2, 2
    train(config, dataset, tmp_path)
    assert epochs_saved(tmp_path) == {"4", "5"}


# Settings and workdirs that cannot be used.


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("training.epochs", 0),
        ("training.epochs", -1),
        ("training.batch_size", 0),
        ("training.batch_size", 73),
        ("training.schedule", "flat"),
        ("training.warmup", 0.0),
        ("data.validation", 1.0),
        ("data.exclude", "0,1,2"),
        ("data.exclude", "cat"),
        ("data.pad", -1),
        ("data.cutout", -1),
        ("model.name", "resnet9"),
        ("model.width", -1),
        ("orthogonality.penalty", "soft"),
        ("orthogonality.layers", "nothing"),
        ("checkpoint.every", 0),
        ("checkpoint.keep", 0),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_before_anything_is_written(setting, value, config, dataset, tmp_path):
    section, name = setting.split(".")
    config[section][name] = value
    with pytest.raises(InputError):
        train(config, dataset, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_penalty_schedule_that_cannot_be_used_is_refused_before_anything_is_written(config, dataset, tmp_path):
    config.orthogonality.schedule = ((0,),)
    with pytest.raises(InputError, match=r"orthogonality.schedule"):
        train(config, dataset, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "value"), [("training.learning_rate", 0.1), ("data.pad", 0), ("orthogonality.schedule", ((0, 2.0),))]
)
def test_a_workdir_of_another_run_is_refused_and_named(setting, value, finished, dataset):
    config = three_epochs()
    section, name = setting.split(".")
    config[section][name] = value
    with pytest.raises(InputError, match=rf"run holds a run with other settings \({setting}\)"):
        train(config, dataset, finished[0])


def test_a_workdir_of_another_seed_is_refused(finished, dataset):
    config = three_epochs()
    config.seed = 7
    with pytest.raises(InputError, match=r"other settings \(seed\)"):
        train(config, dataset, finished[0])


def test_where_the_data_lie_may_change_between_runs(finished, dataset):
    config = three_epochs()
    config.data.dir = "elsewhere"
    assert_equal(train(config, dataset, finished[0]), finished[1])


@pytest.mark.parametrize("content", ["", '{"config": {', "[]", "null", '{"config": null}', "{}"])
def test_a_workdir_whose_config_is_garbled_is_refused(content, config, dataset, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=str(tmp_path)):
        train(config, dataset, tmp_path)


def test_a_workdir_below_a_file_is_refused(config, dataset, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write to .*file/run \(Not a directory\)"):
        train(config, dataset, tmp_path / "file" / "run")


# Runs that fail on the way.


def exit_line(capsys, *args) -> str:
    """The one line that a command prints before it exits with code 2; progress lines do not count."""
    with pytest.raises(SystemExit) as caught:
        exit_on_input_error(train, *args)
    assert caught.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("epoch ")]
    return line


def test_a_learning_rate_out_of_all_bounds_is_reported_in_one_line(config, dataset, tmp_path, capsys):
    config.training.learning_rate = 1e20
    line = exit_line(capsys, config, dataset, tmp_path)
    assert line.startswith("error: the loss is not finite in epoch 1; lower --config.training.learning_rate")
    assert "no checkpoint was written yet" in line


def test_the_last_good_checkpoint_outlives_a_loss_that_is_not_finite(config, dataset, tmp_path):
    config.orthogonality.schedule = ((0, 0.0), (1, 1e30))
    with pytest.raises(InputError, match=r"not finite in epoch 2; .*the checkpoint of epoch 1 is kept"):
        train(config, dataset, tmp_path)
    assert epochs_saved(tmp_path) == {"1"}
    with pytest.raises(InputError, match=r"is trained for 1 of 2 epochs; run the same experiments.train again"):
        load_workdir(tmp_path)
    variables = checkpoint.load_variables(tmp_path, variable_shapes(build_model(config, 3, (8, 8, 1)), (8, 8, 1)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))


def test_too_little_free_space_is_noticed_before_the_start(config, dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=1000))
    assert "free some space" in exit_line(capsys, config, dataset, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_disk_that_fills_up_while_saving_is_reported_in_one_line(config, dataset, tmp_path, stop_before_save, capsys):
    stop_before_save(2, OSError(errno.ENOSPC, "No space left on device", str(tmp_path)))
    assert exit_line(capsys, config, dataset, tmp_path).endswith(
        "no space left on the device; free some or choose another folder"
    )
    assert epochs_saved(tmp_path) == {"1"}


@pytest.mark.parametrize("at_once", [True, False])
def test_a_disk_that_orbax_finds_full_is_reported_in_one_line(at_once, config, dataset, tmp_path, monkeypatch, capsys):
    """TensorStore reports a full disk as a ValueError, and a save in the background where it is waited for."""

    def full(*args, **kwargs):
        raise ValueError(
            'RESOURCE_EXHAUSTED: Failed writing: "checkpoints/2.orbax-checkpoint-tmp/variables/d/f0": '
            "Failed to write 12 bytes to file 41: No space left on device [os_error_code='28']"
        )

    save = full if at_once else lambda *_: types.SimpleNamespace(result=full)
    monkeypatch.setattr(checkpoint.ocp, "save_checkpointables_async", save)
    assert "no space left" in exit_line(capsys, config, dataset, tmp_path)


def test_images_of_one_colour_do_not_break_the_normalisation(config, dataset, tmp_path):
    blank = Split(np.zeros_like(dataset.train.images), dataset.train.labels)
    config.training.epochs = 1
    train(config, Dataset("blank", "blank", dataset.class_names, blank, dataset.test), tmp_path)
    assert np.isfinite(metrics_of(tmp_path)[0]["loss"])


@pytest.fixture
def small(monkeypatch, small_net, config) -> ConfigDict:
    """A run of two epochs with a network that compiles in no time; 72 images make 2 full batches and 8 more images."""
    monkeypatch.setattr(loop, "build_model", lambda *_: small_net)
    config.training.last_batch = "keep"
    return config


def test_a_kept_last_batch_is_a_step_of_its_own(small, dataset, tmp_path):
    train(small, dataset, tmp_path / "kept")
    assert [line["step"] for line in metrics_of(tmp_path / "kept")] == [3, 6]
    small.training.last_batch = "drop"
    train(small, dataset, tmp_path / "dropped")
    assert [line["step"] for line in metrics_of(tmp_path / "dropped")] == [2, 4]


def test_fewer_images_than_a_batch_are_trained_on_where_the_last_batch_is_kept(small, dataset, tmp_path):
    small.training.batch_size = 1000
    train(small, dataset, tmp_path / "kept")
    assert [line["step"] for line in metrics_of(tmp_path / "kept")] == [1, 2]


def test_a_kept_last_batch_stands_in_the_mean_by_its_images():
    values = np.float32([1, 1, 4])
    assert loop._mean(values, np.array([4, 4, 4])) == float(values.mean())
    assert loop._mean(values, np.array([4, 4, 1])) == pytest.approx(12 / 9)


@pytest.mark.parametrize("steps", [1, 5])  # in the first epoch, and in the second
def test_a_run_with_a_kept_last_batch_goes_on_after_a_stop_to_the_same_end(
    steps, small, dataset, tmp_path, monkeypatch
):
    whole, wanted = tmp_path / "whole", []
    wanted = train(small, dataset, whole)
    asked = []

    @contextlib.contextmanager
    def stopped():
        yield lambda: asked.append(None) or len(asked) == steps

    with monkeypatch.context() as patch:
        patch.setattr(loop, "termination", stopped)
        with pytest.raises(Stopped, match="stopped in epoch"):
            train(small, dataset, tmp_path / "run")
    assert_equal(train(small, dataset, tmp_path / "run"), wanted)
    assert metrics_of(tmp_path / "run") == metrics_of(whole)


def test_streamed_images_have_no_kept_last_batch(small, dataset, tmp_path):
    small.data.stream = True
    with pytest.raises(InputError, match="last_batch 'keep' needs images in memory"):
        train(small, dataset, tmp_path / "run")


def test_a_run_of_before_these_settings_goes_on(small, dataset, tmp_path):
    small.training.last_batch = "drop"
    wanted = train(small, dataset, tmp_path)
    record = json.loads((tmp_path / "config.json").read_text())
    del record["config"]["data"]["pad_mode"], record["config"]["training"]["last_batch"]
    (tmp_path / "config.json").write_text(json.dumps(record))
    write_sums(tmp_path, ["config.json"])
    assert_equal(train(small, dataset, tmp_path), wanted)
    small.data.pad_mode = "zeros"
    with pytest.raises(InputError, match=r"other settings .*data\.pad_mode"):
        train(small, dataset, tmp_path)
