"""Audits side by side: counted by hand, and by the command."""

import json

import pytest

from osp_jax.report.audits import audits_markdown, condensed, frontier_figure, means, summary
from osp_jax.report.formats import NOTHING
from tests.experiments.conftest import assert_one_line_error, run_cases


def audited(evaluation: dict, method: str, forget: int) -> dict:
    names = [evaluation["dataset"]["class_names"][forget]]
    unlearn = evaluation["unlearn"] | {"forget_names": names, "provenance": evaluation["provenance"]}
    return evaluation | {"method": method, "forget": [forget], "unlearn": unlearn}


def with_measures(evaluation: dict, model: str, question: str, measures: dict) -> dict:
    changed = evaluation[model] | {"measures": evaluation[model]["measures"] | {question: measures}}
    return evaluation | {model: changed}


def value(number: float) -> dict:
    return {"value": number, "ci95": [number - 0.01, number + 0.01], "n": 100, "leak": "high"}


def test_measures_on_which_more_is_left_are_counted_over_requests(evaluate):
    found = []
    for forget, left in ((3, 0.9), (5, 0.5)):
        evaluation = audited(evaluate(), "osp-fit", forget)
        for model, first in (("original", 0.95), ("unlearned", left), ("retrained", 0.5)):
            evaluation = with_measures(evaluation, model, "membership", {"a": value(first), "b": value(0.5)})
        found.append(evaluation)
    rows = {name: cells for name, *cells in summary(condensed(found))}
    assert rows["original"][0] == "2 of 4"
    assert rows["osp-fit"][0] == "1 of 4"
    assert "retrained" not in rows


def test_the_original_and_the_retrained_model_stand_once_beside_the_methods(evaluate):
    results = condensed([audited(evaluate(), method, 3) for method in ("osp", "unsir")])
    assert list(results["requests"]) == ["cat"]
    assert set(results["requests"]["cat"]["models"]) == {"original", "osp", "unsir", "retrained"}
    assert "curves" not in results["requests"]["cat"]["models"]["osp"]
    table = audits_markdown(results).partition("## cat")[2]
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")]
    assert rows == ["Model", "---", "original", "osp", "unsir", "retrained"]


def test_the_figure_names_every_method_that_was_probed_with_its_time(evaluate):
    evaluations = []
    for method, probe in (("osp", 0.9), ("unsir", 0.8), ("esc", None)):
        evaluation = audited(evaluate(), method, 3)
        evaluation["unlearn"] = evaluation["unlearn"] | {"seconds": {"warm_median": 0.25}}
        for model, mine in (("original", 0.95), ("unlearned", probe), ("retrained", 0.7)):
            probes = {} if mine is None else {"linear_last": value(mine), "new_head_forget_accuracy": value(mine)}
            evaluation = with_measures(evaluation, model, "probes", probes)
        evaluations.append(evaluation)
    drawn = frontier_figure(condensed(evaluations))
    assert all(name in drawn for name in ("osp, 250 ms", "unsir, 250 ms", "retrained", "original"))
    assert "esc, 250 ms" not in drawn


def test_the_figure_leaves_out_a_time_that_was_not_measured(evaluate):
    evaluation = audited(evaluate(), "osp", 3)
    evaluation["unlearn"] = evaluation["unlearn"] | {"seconds": {"cold": 0.5, "warm_median": None}}
    for model in ("original", "unlearned", "retrained"):
        probes = {"linear_last": value(0.8), "new_head_forget_accuracy": value(0.8)}
        evaluation = with_measures(evaluation, model, "probes", probes)
    drawn = frontier_figure(condensed([evaluation]))
    assert "osp" in drawn
    assert "osp," not in drawn


def test_means_are_over_requests_and_gaps_to_the_retrained_model(evaluate):
    found = []
    for forget, probe in ((3, 0.9), (5, 0.8)):
        evaluation = audited(evaluate(), "osp", forget)
        for model, mine in (("original", 0.95), ("unlearned", probe), ("retrained", 0.7)):
            probes = {"linear_first": value(0.1), "linear_last": value(mine), "new_head_forget_accuracy": value(mine)}
            evaluation = with_measures(evaluation, model, "probes", probes)
            evaluation = with_measures(evaluation, model, "membership", {"u_lira_auc": value(mine)})
            attacks = {"a_forget_accuracy": value(0.2), "b_forget_accuracy": value(mine / 2)}
            attacks["inversion_recognised"] = value(mine)
            evaluation = with_measures(evaluation, model, "recovery", attacks)
        found.append(evaluation)
    rows = {name: cells for name, *cells in means(condensed(found))}
    assert rows["osp"][2:5] == ["0.850", "+15.0", "+15.0"]
    assert rows["osp"][-2:] == ["42.5%", "85.0%"]
    assert rows["original"][2:4] == ["0.950", "+25.0"]
    assert rows["retrained"][2:6] == ["0.700", NOTHING, NOTHING, NOTHING]


@pytest.fixture
def folder(evaluate, tmp_path):
    for name, evaluation in {"a": audited(evaluate(), "osp", 3), "b": audited(evaluate(), "unsir", 3)}.items():
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "eval.json").write_text(json.dumps(evaluation))
    return tmp_path


def test_the_command_writes_both_files_and_refuses_what_does_not_belong_together(folder, evaluate):
    other = folder / "other"
    for name, evaluation in {"a": audited(evaluate(), "osp", 3), "b": audited(evaluate(), "unsir", 3)}.items():
        (other / name).mkdir(parents=True)
        (other / name / "eval.json").write_text(
            json.dumps(evaluation | ({"model": {"name": "vgg11", "parameters": 1}} if name == "b" else {}))
        )
    (folder / "empty").mkdir()
    (folder / "alone").mkdir()
    alone = {name: value for name, value in audited(evaluate(), "osp", 3).items() if name != "retrained"}
    (folder / "alone" / "eval.json").write_text(json.dumps(alone))
    out = folder / "out"
    cases = [
        [f"--evaluations={folder / 'in'}", f"--out={out}"],
        [f"--evaluations={folder / 'in'}", f"--out={out}"],
        [f"--evaluations={other}", f"--out={folder / 'more'}"],
        [f"--evaluations={folder / 'empty'}", f"--out={folder / 'more'}"],
        [f"--evaluations={folder / 'alone'}", f"--out={folder / 'more'}"],
    ]
    (done, _), *refused = run_cases("experiments.audits", cases)
    assert done == 0
    assert set(json.loads((out / "results.json").read_text())["methods"]) == {"osp", "unsir"}
    assert (out / "table.md").read_text().startswith("# cifar10")
    for (code, stderr), words in zip(
        refused, ["--overwrite", "another model", "experiments.eval", "--reference"], strict=True
    ):
        assert_one_line_error(code, stderr, words)
    assert not (folder / "more").exists()
