"""TensorBoard files hold what `metrics.jsonl` holds; they are read back as TensorBoard reads them."""

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from osp_jax.runtime.errors import InputError
from osp_jax.training.tensorboard import event_files
from tests.experiments.conftest import trained  # noqa: F401


def events_of(file: Path) -> Iterator:
    """The events of a file: records of a length, its checksum, the event and its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    data, place = file.read_bytes(), 0
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        yield Event.FromString(data[place + 12 : place + 12 + length])
        place += 16 + length


def scalars(folder: Path) -> dict[int, dict[str, float]]:
    """The scalars by step and name, files in the order in which they were begun; a new start discards later steps."""
    found: dict[int, dict[str, float]] = {}
    for file in sorted(folder.iterdir(), key=lambda path: (path.stat().st_mtime_ns, path.name)):
        for event in events_of(file):
            if event.HasField("session_log"):
                found = {step: named for step, named in found.items() if step < event.step}
            for value in event.summary.value:
                found.setdefault(event.step, {})[value.tag] = value.simple_value
    return found


def test_a_metric_is_a_scalar_at_its_step_and_one_by_layer_has_the_layer_in_its_name(tmp_path):
    with event_files(tmp_path) as write:
        write({"epoch": 1, "step": 40, "loss": 0.5, "gram_error": {"a/b": 2.0, "c": 3.0}})
    assert scalars(tmp_path) == {40: {"epoch": 1, "loss": 0.5, "gram_error/a/b": 2.0, "gram_error/c": 3.0}}


def test_a_run_that_goes_on_replaces_what_was_written_of_the_same_steps(tmp_path):
    with event_files(tmp_path) as write:
        for epoch, loss in ((1, 4.0), (2, 3.0)):
            write({"epoch": epoch, "step": 10 * epoch, "loss": loss})
    with event_files(tmp_path) as write:
        for epoch, loss in ((2, 2.0), (3, 1.0)):
            write({"epoch": epoch, "step": 10 * epoch, "loss": loss})
    assert {step: named["loss"] for step, named in scalars(tmp_path).items()} == {10: 4.0, 20: 2.0, 30: 1.0}


def test_a_run_without_an_epoch_writes_nothing(tmp_path):
    with event_files(tmp_path / "events"):
        pass
    assert not (tmp_path / "events").exists()


def test_without_the_library_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(InputError, match=r"pip install 'osp_jax\[tensorboard\]'"), event_files(tmp_path):
        pass


def test_a_training_writes_the_metrics_of_each_epoch(trained):  # noqa: F811
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    found = scalars(trained.parent / "events")
    assert [named["epoch"] for named in found.values()] == [line["epoch"] for line in lines] == [1, 2]
    for line in lines:
        flat = {f"gram_error/{layer}": error for layer, error in line.pop("gram_error").items()} | line
        assert found[flat.pop("step")] == pytest.approx(flat, rel=1e-6)
