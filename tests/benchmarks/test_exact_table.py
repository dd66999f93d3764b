"""The tables of exact heads: gaps are 0 only if their interval contains 0, and missing values are dashes."""

from benchmarks.exact_table import HEADER, LEFT_HEADER, left_rows, markdown

AREA = {"value": 0.5, "ci95": [0.49, 0.51], "n": 9}


def results() -> dict:
    seconds = {key: {"wall": 0.02, "cpu": 0.002} for key in ("class_prepared", "class", "images_1", "images_100")}
    gaps = [
        {"gap": 0.0, "gap_ci95": None},
        {"gap": 0.1, "gap_ci95": [-0.1, 0.2]},
        {"gap": 0.1, "gap_ci95": [0.05, 0.2]},
        {"gap": None, "gap_ci95": None},
    ]
    return {
        "network": "net",
        "dataset": "images",
        "features": 1234,
        "settings": {"stages": 3, "random_features": 0, "ridge": 1.0},
        "test_accuracy": {"value": 0.9},
        "classes": [{"forgotten_after": 0.0, "others_before": 0.9, "others_after": 0.91}],
        "seconds": seconds | {"prepare_all": 1.5},
        "bytes_a_class": {"moments": 10**6, "prepared": 10**5},
        "removals": {"differences": [1e-13, 3e-13]},
        "audit": [{"class": 3, "weights": 1e-14, "gaps": gaps}],
        "u_lira": [
            {"request": "8 images", "u_lira_auc": AREA, "u_lira_auc_hidden": AREA, "largest_weight_difference": 2e-14}
        ],
        "provenance": {"device": "a CPU"},
    }


def test_gaps_are_counted_and_requests_without_an_audit_or_an_attack_have_a_dash():
    audited, attacked = left_rows(results())
    assert len(audited) == len(attacked) == len(LEFT_HEADER)
    assert audited[:4] == ["net", "class 3", "1.0e-14", "2 of 3"]
    assert attacked[1:5] == ["8 images", "2.0e-14", "–", "0.5000 [0.4900, 0.5100]"]  # noqa: RUF001


def test_the_text_has_both_tables_and_the_settings():
    text = markdown([results()])
    for words in (
        *HEADER,
        "net 3 stages, 0 random features, ridge 1",
        "90.00%",
        "+1.00 points",
        "1.1 MB",
        "2.00 / 20",
        "3.0e-13",
    ):
        assert words in text
