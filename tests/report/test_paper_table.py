"""The table of the study: figures by hand, and 'not run' wherever one is missing."""

import pytest

from osp_jax.report.paper import HEADER, NOT_RUN, paper_rows

SWEEP = {
    "dataset": {"variant": "toys 1.0"},
    "provenance": {"device": "cpu"},
    "accuracy": 0.9,
    "options": {"osp": {}},
    "classes": [
        {"original": {"retain_accuracy": 0.9}, "osp": {"forget_accuracy": f, "retain_accuracy": r, "warm_seconds": s}}
        for f, r, s in ((0.0, 0.91, 0.001), (0.04, 0.86, 0.003), (0.02, 0.9, 0.002))
    ],
}


def model(retain, probe, head, auc=None):
    probes = {"linear_last": {"value": probe}, "new_head_forget_accuracy": {"value": head}}
    membership = {} if auc is None else {"u_lira_auc": {"value": auc}}
    return {"test_retain_accuracy": retain, "measures": {"probes": probes, "membership": membership}}


def audit(auc=None):
    models = {"osp": model(0.88, 0.8, 0.5, auc), "retrained": model(0.9, 0.75, 0.3, auc and 0.5)}
    return {"requests": {"bear": {"models": models}}}


def row(results, method="osp"):
    (found,) = paper_rows(["toys_net"], results, [method])
    return dict(zip(HEADER, found, strict=True)), found


def test_a_network_that_was_not_run_has_no_figure():
    _, found = row({})
    assert found[:2] == ["toys", "net"]
    assert set(found[2:]) == {NOT_RUN, "all"}


def test_accuracies_are_means_and_worst_over_the_classes():
    _, found = row({"toys_net": {"sweep": SWEEP}})
    assert found[:9] == ["toys 1.0", "net", "cpu", "90.0%", "osp", "2.0%", "4.0%", "-1.00", "-4.00"]
    assert found[9:13] == [NOT_RUN] * 4
    assert found[13] == "2 ms"


@pytest.mark.parametrize(("auc", "shown"), [(None, NOT_RUN), (0.8, "+0.300")])
def test_gaps_are_to_the_retrained_model_and_shadow_models_may_be_missing(auc, shown):
    _, found = row({"toys_net": {"sweep": SWEEP, "audit": audit(auc)}})
    assert found[9:13] == ["-2.00", shown, "+5.0", "+20.0"]


def test_a_method_that_was_not_run_says_so():
    named, found = row({"toys_net": {"sweep": SWEEP, "audit": audit()}}, "new")
    assert named["Accuracy before"] == "90.0%"
    assert found[5:] == [NOT_RUN] * 9
