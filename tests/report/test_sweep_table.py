"""The table of all classes, from a sweep made by hand."""

from experiments.tables import fill_in
from osp_jax.report.sweep import summary_header, sweep_summary


def results() -> dict:
    def row(original: float, forget: float, retain: float, seconds: float) -> dict:
        return {
            "original": {"forget_accuracy": 0.9, "retain_accuracy": original},
            "osp": {"forget_accuracy": forget, "retain_accuracy": retain, "warm_seconds": seconds},
        }

    return {
        "options": {"osp": {}},
        "classes": [row(0.8, 0.0, 0.81, 1e-3), row(0.9, 0.1, 0.87, 3e-3), row(0.7, 0.05, 0.7, 2e-3)],
    }


def test_the_summary_has_means_worst_classes_and_the_median_time():
    assert sweep_summary(results()) == [["osp", "5.00%", "10.00%", "-0.67", "-3.00", "2.00 ms"]]


def test_a_method_that_was_not_repeated_has_a_dash_for_its_time():
    found = results()
    for row in found["classes"]:
        row["osp"]["warm_seconds"] = None
    assert sweep_summary(found)[0][-1] == "\N{EN DASH}"


def test_what_was_asked_of_the_features_is_reported_as_a_mean_change_to_the_original():
    found = results()
    for row, before, after in zip(found["classes"], (0.9, 0.8, 0.7), (0.8, 0.8, 0.4), strict=True):
        row["original"]["probe"], row["osp"]["probe"] = before, after
    assert summary_header(found)[-1] == "Linear probe, change"
    assert sweep_summary(found)[0][-1] == "-13.3"


def test_only_what_stands_between_the_marks_is_rewritten():
    text = "a\n<!-- begin x -->\nold\nlines\n<!-- end x -->\nb\n<!-- begin y -->\n<!-- end y -->\nc\n"
    filled = fill_in(text, {"x": lambda: "new\n", "y": lambda: "other"})
    assert filled == "a\n<!-- begin x -->\nnew\n<!-- end x -->\nb\n<!-- begin y -->\nother\n<!-- end y -->\nc\n"
    assert fill_in(filled, {"x": lambda: "new\n", "y": lambda: "other"}) == filled
