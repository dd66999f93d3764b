"""The table of what a penalty buys."""

from osp_jax.report.formats import NOTHING
from osp_jax.report.orthogonality import orthogonality_markdown, orthogonality_rows, tradeoff_figure


def model(name, penalty, seed, forget, change, features=None, epochs=5):
    return {
        "name": name,
        "dataset": {"variant": "digits"},
        "model": {"name": "resnet8", "parameters": 7},
        "config": {
            "seed": seed,
            "orthogonality": {"penalty": penalty, "weight": 0.01, "layers": ""},
            "training": {"epochs": epochs},
            **({"features": features} if features else {}),
        },
        "accuracy": 0.7 + 0.1 * seed,
        "validation_accuracy": 0.7,
        "gram_error": {"a": 1.0, "b": 3.0},
        "feature_correlation": 0.2,
        "top_class_share": {"a": 0.1, "b": 0.3},
        "tradeoff": {"0.25": {"forget_accuracy": forget, "retain_change": change}},
        "provenance": {},
    }


RESULTS = {
    "dataset": {"name": "digits", "variant": "digits"},
    "amounts": [0.25],
    "strengths": [0.5, 1.0],
    "models": [
        model("a", "none", 0, [0.5, 0.04], [-0.01, -0.04]),
        model("b", "none", 1, [0.5, 0.03], [-0.01, -0.02]),
        model("c", "so", 0, [0.02, 0.0], [-0.05, -0.06]),
        model("d", "none", 0, [0.9, 0.8], [0.0, 0.0], {"penalty": "ownership", "weight": 1.0}, epochs=9),
    ],
    "provenance": {"command": "x", "commit": "0" * 40, "versions": {"jax": "1"}, "device": "cpu"},
}


def test_seeds_are_averaged_and_the_best_trade_off_that_forgets_enough_comes_first():
    rows = {row[0]: row[1:] for row in orthogonality_rows(RESULTS)}
    assert list(rows) == ["none", "so 0.01", "ownership 1, 9 epochs"]
    assert rows["none"] == ["2", "75.0%", "2.00", "0.200", "0.300", "-3.00", NOTHING]
    assert rows["so 0.01"][-2:] == ["-5.00", "-6.00"]
    assert rows["ownership 1, 9 epochs"][-2:] == [NOTHING, NOTHING]


def test_the_page_has_every_variant_and_the_figure_its_lines():
    page, figure = orthogonality_markdown(RESULTS), tradeoff_figure(RESULTS)
    assert page.count("ownership 1, 9 epochs") == 2
    assert figure.startswith("<svg")
    assert "so 0.01" in figure
