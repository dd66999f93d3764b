"""A small comparison from training to table: its contents, its resumption after a kill, and a failing method."""

import dataclasses
import json
from typing import ClassVar

import jax
import numpy as np
import pytest
from jax.errors import JaxRuntimeError
from ml_collections import ConfigDict

from configs.benchmark import default
from osp_jax.comparison.cell import attempt
from osp_jax.comparison.plan import parse_methods, parse_requests, trials
from osp_jax.comparison.run import check_comparison, collect, compare, tune
from osp_jax.data.sources import load_dataset
from osp_jax.loading import load_workdir
from osp_jax.methods import METHODS
from osp_jax.methods.osp_fit import OspFit
from osp_jax.methods.parts.method import Method
from osp_jax.report.comparison import comparison_html, comparison_markdown, comparison_tex
from osp_jax.report.comparison_tables import summarise
from osp_jax.runtime.errors import InputError
from osp_jax.runtime.integrity import read_piece, write_piece
from osp_jax.training.loop import train
from osp_jax.trees import edited


@dataclasses.dataclass(frozen=True)
class ShrinkHead(Method):
    """The example of docs/adding_a_method.md, in short."""

    search: ClassVar = {"factor": (0.0, -1.0, 100.0)}
    factor: float = 0.0

    def unlearn(self, model, forget, *, data, statistics, rng):
        bias = model.variables["params"]["head"]["bias"].at[np.array(forget)].set(self.factor - 50)
        return model.replace(variables=edited(model.variables, {"params/head/bias": bias}))


@dataclasses.dataclass(frozen=True)
class Look(Method):
    """Changes nothing, and sees all that it may."""

    sees: ClassVar = ("retain",)

    def unlearn(self, model, forget, *, data, statistics, rng):
        data.retain()
        return model


@dataclasses.dataclass(frozen=True)
class Crash(Method):
    sees: ClassVar = ("retain",)

    def unlearn(self, model, forget, **given):
        raise RuntimeError("out of\nmemory")


@pytest.fixture
def methods(monkeypatch):
    """Three methods of the registry, and three that this test adds to it."""
    for name, method in {"shrink-head": ShrinkHead, "look": Look, "crash": Crash}.items():
        monkeypatch.setitem(METHODS, name, method)
    return parse_methods(["retrain", "logit-mask", "osp", "shrink-head", "look", "crash"], [])


@pytest.fixture
def config():
    config = default.get_config()
    config.original.model.width = 4
    config.original.training.epochs = 2
    config.original.statistics.features = 100
    config.tuning.trials = 3
    return config


@pytest.fixture
def dataset():
    return load_dataset("digits")


def run(config, dataset, workdir, methods, requests, seeds=(0,)):
    """(what was worked on, results)"""
    worked = []
    check_comparison(config, dataset, methods)
    compare(config, dataset, workdir, methods, parse_requests(requests, dataset.class_names), seeds, worked.append)
    return worked, collect(config, workdir)


def test_a_comparison_holds_every_method_on_every_request_and_says_what_failed(config, dataset, methods, tmp_path):
    del methods["retrain"]
    _, results = run(config, dataset, tmp_path, methods, ["3", "1,2", "4 then 5"])
    assert {(c["request"], c["method"]) for c in results["cells"]} == {
        (request, method) for request in ("3", "1, 2", "4 then 5") for method in ("original", *methods)
    }
    cells = {(c["request"], c["method"]): c for c in results["cells"]}
    for request in ("3", "1, 2", "4 then 5"):
        for method in ("logit-mask", "shrink-head"):
            assert cells[request, method]["accuracy"]["test_forget_accuracy"] == 0
        assert cells[request, "crash"]["error"] == "RuntimeError: out of memory (traceback in crash.log)"
        assert cells[request, "osp"]["seconds"]["warm"] > 0
        assert cells[request, "osp"]["seen"] == {}
    assert "3" not in cells["3", "look"]["seen"]
    assert cells["4 then 5", "look"]["seen"].keys() == {str(c) for c in range(10)} - {"4"}  # it had the 5 at first

    assert results["tuning"]["osp"][0]["cold"] > cells["3", "osp"]["seconds"]["warm"]
    tried = results["tuning"]["shrink-head"]
    assert tried[0]["options"] == {"factor": 0.0}
    assert {trial["options"]["factor"] for trial in tried} == {0.0, -1.0, 100.0}
    best = max(tried, key=lambda trial: trial["score"])["options"]
    assert cells["3", "shrink-head"]["options"] == best != {"factor": 100.0}

    markdown, html, tex = comparison_markdown(results), comparison_html(results), comparison_tex(results)
    for page in (markdown, html, tex):
        assert "shrink-head" in page
        assert "failed" in page
    assert "out of memory" in markdown
    assert tex.count("{") == tex.count("}")


def test_what_is_finished_is_not_run_again_and_what_is_missing_is(config, dataset, methods, tmp_path):
    del methods["crash"], methods["retrain"]
    run(config, dataset, tmp_path, methods, ["3"])
    files = {p: p.read_bytes() for p in tmp_path.rglob("*.json")}
    missing = tmp_path / "seed0" / "cells" / "3" / "osp.json"
    missing.unlink()
    write_piece(  # killed after the second of three trials
        tmp_path / "tuning" / "shrink-head.json", read_piece(tmp_path / "tuning" / "shrink-head.json")[:2]
    )
    _, results = run(config, dataset, tmp_path, methods, ["3", "4"])
    again = read_piece(missing)
    assert again["accuracy"] == json.loads(files[missing])["content"]["accuracy"]
    tuned = tmp_path / "tuning" / "shrink-head.json"
    choice = [
        [(t["options"], t["score"]) for t in json.loads(text)["content"]] for text in (files[tuned], tuned.read_bytes())
    ]
    assert choice[0] == choice[1]
    assert all(p.read_bytes() == old for p, old in files.items() if p not in (missing, tuned))
    assert {c["request"] for c in results["cells"]} == {"3", "4"}


@pytest.mark.parametrize(
    "error",
    [InputError("no layer"), MemoryError(), FloatingPointError("nan"), JaxRuntimeError("RESOURCE_EXHAUSTED: 9")],
)
def test_a_result_that_is_an_error_is_a_row_without_a_log(tmp_path, error):
    def work():
        raise error

    words = f"{type(error).__name__}: {error}".strip()
    assert attempt(work, tmp_path / "osp.log")["error"].strip() == words
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [TypeError("a bug"), JaxRuntimeError("INTERNAL: a bug")])
def test_a_fault_of_the_code_keeps_its_traceback_beside_the_row(tmp_path, error):
    def work_with_a_bug():
        raise error

    log = tmp_path / "cells" / "osp.log"
    assert attempt(work_with_a_bug, log)["error"] == f"{type(error).__name__}: {error} (traceback in osp.log)"
    assert "in work_with_a_bug" in log.read_text()


def test_data_without_test_images_of_their_own_are_refused(config, dataset, methods):
    held_out = dataclasses.replace(dataset, test_held_out=True)
    with pytest.raises(InputError, match="digits has none; divide its images into train and test"):
        check_comparison(config, held_out, methods)


def test_a_deep_network_is_checked_before_it_is_trained(config, dataset):
    config.original.model.name = "resnet20"
    check_comparison(config, dataset, parse_methods(["osp"], []))


def test_a_method_that_cannot_act_on_the_network_is_refused_by_name_and_left_out_of_all(config, dataset):
    methods = parse_methods(["osp", "exact-head"], [])
    with pytest.raises(InputError, match="ridge"):
        check_comparison(config, dataset, methods)
    assert list(check_comparison(config, dataset, methods, named=False)) == ["osp"]


def test_trials_of_options_that_were_renamed_since_are_refused(tmp_path):
    old = {"gap" if name == "margin" else name: value for name, value in dataclasses.asdict(OspFit()).items()}
    write_piece(tmp_path / "osp-fit.json", [{"options": old, "score": 0.5}])
    with pytest.raises(InputError, match="trials of other options of osp-fit"):
        tune(None, OspFit(), [], 2, tmp_path / "osp-fit.json", None)


def test_trials_of_before_an_option_existed_count(tmp_path):
    tried = [dataclasses.asdict(candidate) for candidate in trials(OspFit(), 2)]
    done = [{"options": {k: v for k, v in t.items() if k != "erase"}, "score": i} for i, t in enumerate(tried)]
    write_piece(tmp_path / "osp-fit.json", done)
    chosen = tune(None, OspFit(), [], 2, tmp_path / "osp-fit.json", None)
    assert dataclasses.asdict(chosen) == tried[1]


def test_retraining_as_a_method_is_kept_and_never_saw_the_class(config, dataset, methods, tmp_path, monkeypatch):
    only, trainings, retrain = {"retrain": methods["retrain"]}, [], METHODS["retrain"]
    unlearn = retrain.unlearn
    monkeypatch.setattr(retrain, "unlearn", lambda *a, **k: trainings.append(1) or unlearn(*a, **k))
    _, results = run(config, dataset, tmp_path, only, ["3"])
    (cell,) = (c for c in results["cells"] if c["method"] == "retrain")
    assert len(trainings) == 1
    assert "3" not in cell["seen"]
    assert cell["accuracy"]["train_forget_accuracy"] == 0
    kept = load_workdir(tmp_path / "seed0" / "retrained" / "3")
    original = load_workdir(tmp_path / "seed0" / "original")
    assert jax.tree.structure(kept.model.variables) == jax.tree.structure(original.model.variables)
    assert kept.model.forgotten == (3,)
    assert kept.record["config"]["data"]["exclude"] == "3"


def test_a_retrained_network_that_is_there_is_read_and_one_of_another_recipe_is_refused(
    config, dataset, methods, tmp_path, monkeypatch
):
    monkeypatch.setattr(METHODS["retrain"], "unlearn", lambda *a, **k: pytest.fail("trained again"))
    only, folder = {"retrain": methods["retrain"]}, tmp_path / "comparison" / "seed0"
    recipe, elsewhere = ConfigDict(config.original.to_dict()), tmp_path / "elsewhere"
    train(recipe, dataset, elsewhere / "original")
    recipe.data.exclude, recipe.seed = "3", 5
    train(recipe, dataset, elsewhere / "without_3")
    (folder / "retrained").mkdir(parents=True)
    (folder / "original").symlink_to(elsewhere / "original")
    (folder / "retrained" / "3").symlink_to(elsewhere / "without_3")
    (folder / "retrained" / "4").symlink_to(elsewhere / "without_3")
    _, results = run(config, dataset, tmp_path / "comparison", only, ["3", "4"])
    read, refused = (c for c in results["cells"] if c["method"] == "retrain")
    assert read["accuracy"]["test_forget_accuracy"] == 0
    assert read["seconds"]["cold"] > 0
    assert "3" not in read["seen"]
    assert "never saw the classes" in refused["error"]


def test_models_are_asked_what_they_still_know_where_the_config_says_so(config, dataset, methods, tmp_path):
    config.audit.update(questions=True, train_images=60, test_images=10, relearning_steps=4, harm=False)
    config.tuning.images = 50
    only = {name: methods[name] for name in ("logit-mask", "shrink-head")}
    _, results = run(config, dataset, tmp_path, only, ["3"])
    cells = {c["method"]: c for c in results["cells"]}
    assert cells["logit-mask"]["harm"] is None
    probes = {name: cell["measures"]["inside"]["linear_probe"] for name, cell in cells.items()}
    assert probes["logit-mask"]["value"] == probes["original"]["value"]  # it hides the answer alone
    assert probes["original"]["n"] == sum(dataset.test.labels == 3) + 9 * 10
    assert cells["original"]["measures"]["relearning"]["steps_to_half"]["value"] == 0
    assert cells["logit-mask"]["measures"]["relearning"]["steps_to_half"]["never"] == 4
    assert "logistic_auc" in cells["original"]["measures"]["membership"]
    assert "New head" in comparison_markdown(results)
    assert "New head" in comparison_html(results)


def test_the_summary_is_over_requests_and_seeds_of_a_kind():
    def cell(seed, request, method, forget, retain, warm=None):
        accuracy = {"test_forget_accuracy": forget, "test_retain_accuracy": retain}
        cell = {"seed": seed, "request": request, "kind": "single", "method": method, "accuracy": accuracy}
        return cell | ({"seconds": {"cold": None, "warm": warm}, "seen": {"1": 5}} if warm else {})

    cells = [
        cell(0, "a", "original", 0.9, 0.9),
        cell(1, "a", "original", 0.8, 0.8),
        cell(0, "a", "retrain", 0.0, 0.92, 10.0),
        cell(1, "a", "retrain", 0.0, 0.82, 30.0),
        cell(0, "a", "osp", 0.1, 0.89, 0.01),
        cell(1, "a", "osp", 0.3, 0.81, 0.03),
    ]
    tuning = {"osp": [{"cold": 0.5, "peak_bytes": 7}, {"cold": 0.7, "peak_bytes": 9}]}
    found = summarise({"cells": cells, "methods": ["retrain", "osp"], "tuning": tuning}, "single")
    assert list(found) == ["original", "retrain", "osp"]
    osp = found["osp"]
    assert osp["forget"].mean == pytest.approx(0.2)
    assert osp["forget"].half == pytest.approx(12.706 * 0.1414214 / np.sqrt(2), rel=1e-3)  # t of one degree of freedom
    assert osp["change"].values == pytest.approx([-1.0, 1.0])
    assert osp["retain_gap"].values == pytest.approx([-3.0, -1.0])
    assert osp["forget_gap"].mean == pytest.approx(20.0)
    assert found["retrain"]["ratio"] == pytest.approx(1000)
    assert osp["seen"].mean == 5
    assert (osp["cold"], osp["memory"]) == (0.5, 9)  # the defaults compiled first; the peak is over all calls
    assert found["retrain"]["cold"] is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"original.data.validation": 0.0}, "validation"),
        ({"original.data.exclude": "3"}, "exclude"),
        ({"original.training.start_from": "runs/first"}, "start_from"),
        ({"tuning.trials": 0}, "tuning.trials"),
        ({"budget.retain": 0}, "retain examples"),
        ({"original.training.batch_size": 0}, "batch_size"),
    ],
)
def test_what_cannot_work_is_reported_before_anything_is_trained(config, dataset, methods, tmp_path, change, words):
    config.update_from_flattened_dict(change)
    with pytest.raises(InputError, match=words):
        run(config, dataset, tmp_path, methods, ["3"])
    assert not list(tmp_path.iterdir())
