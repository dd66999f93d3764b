"""JSON that is read back: typed, completed, and one line for damage."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from configs import default
from osp_jax.runtime import records
from osp_jax.runtime.errors import InputError
from osp_jax.runtime.settings import completed
from osp_jax.runtime.workdir import EVALUATION as FILES
from osp_jax.runtime.workdir import adding, claim_workdir, read_json, read_record, read_request

PATH = Path("runs/model/file.json")
CONFIG = json.loads(json.dumps(completed({})))
TRAINED = {
    "config": CONFIG,
    "dataset": {
        "name": "digits",
        "variant": "digits",
        "class_names": ["cat", "dog", "bird"],
        "image_shape": [8, 8, 1],
        "num_train": 10,
        "num_test": 5,
        "mean": [0.5],
        "std": [0.25],
    },
}
REQUEST = {"method": "osp", "options": {"amount": 0.5}, "forget": [1], "original": "runs/model", "channels": {}}
EVALUATION = {
    "dataset": {"name": "digits"},
    "model": {"name": "resnet8"},
    "forget": [1],
    "method": "osp",
    "original": {"test_retain_accuracy": 0.5, "test_forget_accuracy": 1.0, "measures": {}},
    "audit": {"level": "quick", "settings": {}},
}
MEASURES = {"membership": {"a_auc": {"value": 0.5, "ci95": [0.4, 0.6], "n": 30, "leak": "high"}}}
AUDITED = EVALUATION | {
    "dataset": {"name": "digits", "variant": "digits", "class_names": ["cat", "dog", "bird"]},
    "model": {"name": "resnet8", "parameters": 10},
    "unlearned": {"measures": MEASURES},
    "retrained": {"measures": MEASURES},
    "unlearn": {"forget_names": ["dog"], "options": {}, "data_seen": {}, "seconds": {"cold": 0.5}, "provenance": {}},
    "provenance": {},
}
SHADOWS = {"number": 4, "config": CONFIG, "epochs": [{"epoch": 1, "seconds": 0.5}]}
FIGURES = {"forget_accuracy": 0.5, "retain_accuracy": None}
ROW = {"name": "cat", "original": FIGURES, "osp": FIGURES}
CELL = {"seed": 0, "request": "cat", "kind": "single", "method": "osp", "forget": [1]}
CELL |= {"accuracy": {"test_forget_accuracy": 0.0, "test_retain_accuracy": 0.9}, "seconds": {"cold": None}}


def refusal(work: Any) -> str:
    with pytest.raises(InputError) as caught:
        work()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\x00\x01\x02",
        b"\xff\xfe{}",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": ' + b"1" * 5000 + b"}",
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b"[" * 100 + b"]" * 100,
        b'{"a":' * 100 + b"1" + b"}" * 100,
        b'{"a": "\xed\xa0\x80"}',
        b"{'a': 1}",
        b"{} {}",
    ],
    ids=lambda content: repr(content[:12]),
)
def test_what_is_no_json_of_ours_is_refused_with_the_file(content, tmp_path):
    (tmp_path / "x.json").write_bytes(content)
    message = refusal(lambda: read_json(tmp_path / "x.json"))
    assert f"{tmp_path}/x.json is damaged" in message
    assert "restore it" in message


def test_a_folder_a_circle_of_links_and_a_file_on_the_way_are_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "file").touch()
    for path in (tmp_path / "folder", tmp_path / "circle", tmp_path / "file" / "config.json", tmp_path / ("x" * 300)):
        assert "cannot be read" in refusal(lambda path=path: read_json(path))


def at(record: Any, name: str, value: object) -> Any:
    """`record` with another value; `...`: without the field."""
    changed = copy.deepcopy(record)
    place = changed
    *sections, field = name.split(".")
    for section in sections:
        place = place[section]
    if value is ...:
        del place[field]
    else:
        place[field] = value
    return changed


READERS = {
    "trained": (TRAINED, lambda content: records.trained(content, PATH)),
    "request": (REQUEST, lambda content: records.request(content, PATH, classes=3)),
    "evaluation": (EVALUATION, lambda content: records.evaluation(content, PATH)),
    "audited": (AUDITED, lambda content: records.checked(content, records.Audited, PATH)),
    "shadows": (SHADOWS, lambda content: records.checked(content, records.ShadowSet, PATH)),
    "row": (ROW, lambda content: records.row(content, PATH, ["osp"])),
    "cell": (CELL, lambda content: records.cell(content, PATH)),
    "epoch": ({"epoch": 1, "step": 3}, lambda content: records.checked(content, records.Epoch, PATH)),
    "trials": ([{"options": {}, "score": 0.5}], lambda content: records.trials(content, PATH)),
    "numbers": ([0.5, 1, -2.5], lambda content: records.numbers(content, PATH, 3)),
}


@pytest.mark.parametrize("reader", READERS)
def test_what_is_whole_is_read_as_it_is(reader):
    content, read = READERS[reader]
    assert read(copy.deepcopy(content)) == content


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("content", [None, 1, "text", True, {}, [[]], [None], 1e300, {"a": []}], ids=repr)
def test_another_shape_is_refused_with_the_file(reader, content):
    assert str(PATH) in refusal(lambda: READERS[reader][1](content))


@pytest.mark.parametrize(
    ("reader", "name", "value"),
    [
        ("trained", "config", ...),
        ("trained", "config", []),
        ("trained", "config.model", "resnet8"),
        ("trained", "config.model.width", "4"),
        ("trained", "config.model.width", 10**6),
        ("trained", "config.seed", -1),
        ("trained", "config.data.exclude", 3),
        ("trained", "dataset", ...),
        ("trained", "dataset.class_names", "cat"),
        ("trained", "dataset.class_names", ["cat"]),
        ("trained", "dataset.class_names", ["cat", 3]),
        ("trained", "dataset.image_shape", [8, 8]),
        ("trained", "dataset.image_shape", [8, 8, -1]),
        ("trained", "dataset.image_shape", [8, 8, 10**9]),
        ("trained", "dataset.mean", [0.5, 0.5]),
        ("trained", "dataset.std", [0]),
        ("trained", "forgotten", [7]),
        ("trained", "forgotten", [0, 1, 2]),
        ("request", "forget", [-1]),
        ("request", "forget", [3]),
        ("request", "forget", []),
        ("request", "forget", [0, 1, 2]),
        ("request", "forget", [1, 1]),
        ("request", "forget", ["cat"]),
        ("request", "forget", [1.0]),
        ("request", "forget", [True]),
        ("request", "forget", ...),
        ("request", "method", None),
        ("request", "options", []),
        ("request", "options", {"amount": [1]}),
        ("request", "original", ""),
        ("request", "original", "a\x00b"),
        ("request", "channels", []),
        ("request", "channels", {"conv": 3}),
        ("request", "channels", {"conv": {"factor": ["a"]}}),
        ("request", "channels", ...),
        ("evaluation", "forget", [-1]),
        ("evaluation", "original", None),
        ("evaluation", "original.test_retain_accuracy", 1.5),
        ("evaluation", "audit", []),
        ("evaluation", "dataset", "digits"),
        ("audited", "retrained", None),
        ("audited", "unlearn", None),
        ("audited", "unlearn.forget_names", 3),
        ("audited", "unlearned.measures", {"membership": {"a_auc": {"value": "high"}}}),
        ("audited", "unlearned.measures", {"membership": {"a_auc": {"value": 0.5, "n": -1}}}),
        ("audited", "provenance", 3),
        ("shadows", "number", "4"),
        ("shadows", "epochs", [{"epoch": 1}]),
        ("shadows", "epochs", {}),
        ("cell", "forget", ...),
        ("cell", "seed", -1),
        ("cell", "accuracy", ...),
        ("cell", "accuracy", {"test_forget_accuracy": "low"}),
        ("cell", "seconds", {"cold": "long"}),
        ("row", "original", [1]),
        ("epoch", "epoch", "1"),
    ],
)
def test_a_field_that_cannot_be_is_refused_with_file_and_name(reader, name, value):
    content, read = READERS[reader]
    message = refusal(lambda: read(at(content, name, value)))
    assert str(PATH) in message
    assert name in message


def test_a_row_of_a_sweep_has_figures_of_every_method():
    assert "original is None" in refusal(lambda: records.row(ROW, PATH, ["osp", "unsir"]))


def test_fields_of_another_version_are_kept():
    later = at(at(TRAINED, "config.data.colour", "grey"), "signature", "abc")
    assert records.trained(later, PATH) == later


def test_a_workdir_from_before_a_setting_is_completed(tmp_path):
    before = copy.deepcopy(TRAINED)
    del before["config"]["features"], before["config"]["data"]["stream"], before["config"]["training"]["norm_bias_rate"]
    (tmp_path / "config.json").write_text(json.dumps(before))
    assert read_record(tmp_path)["config"] == CONFIG


def test_a_run_from_before_a_setting_whose_default_is_not_falsy_goes_on(tmp_path):
    config = default.get_config()
    before = config.to_dict()
    del before["training"]["norm_bias_rate"], before["statistics"]
    (tmp_path / "config.json").write_text(json.dumps({"config": before}))
    claim_workdir(tmp_path, config, {})
    config.training.norm_bias_rate = 2.0
    assert "training.norm_bias_rate" in refusal(lambda: claim_workdir(tmp_path, config, {}))


def test_a_workdir_of_an_older_version_is_read_after_it_was_evaluated(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TRAINED))
    with adding(tmp_path, FILES) as place:
        for name in FILES:
            (place / name).write_text("{}")
    assert read_record(tmp_path) == TRAINED


def test_a_request_behind_a_circle_of_links_is_not_taken_for_none(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TRAINED))
    (tmp_path / "unlearn.json").symlink_to("unlearn.json")
    assert "unlearn.json" in refusal(lambda: read_request(tmp_path))


def test_the_classes_of_a_request_are_those_of_its_model(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TRAINED))
    assert read_request(tmp_path) is None
    (tmp_path / "unlearn.json").write_text(json.dumps(REQUEST))
    assert read_request(tmp_path) == REQUEST
    (tmp_path / "unlearn.json").write_text(json.dumps(REQUEST | {"forget": [-1]}))
    assert "unlearn.json" in refusal(lambda: read_request(tmp_path))
