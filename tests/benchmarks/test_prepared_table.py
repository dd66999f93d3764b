"""The tables of prepared requests, from handwritten results."""

from benchmarks.prepared_table import HEADER, SET_HEADER, rows, set_rows, sets_and_commands, summary

ROW = {
    "method": "osp-fit",
    "prepare_seconds": 0.5,
    "bytes_a_class": 256.0,
    "warm_seconds_prepared": 0.0002,
    "warm_seconds_prepared_p99": 0.001,
    "warm_seconds_prepared_with_report": 0.0004,
    "cold_seconds_prepared": 0.2,
    "warm_seconds": 0.4,
    "cold_seconds": 7.0,
    "bit_identical": True,
}


def a_set(forget, change, **also):
    """A set that was answered jointly and composed, with a change of the accuracy on the others."""
    found = {"joint_forgotten": 0.01, "joint_others_change": change, "joint_seconds": 1.0}
    composed = {"composed_forgotten": 0.0, "composed_others_change": -0.02, "compose_seconds": 0.001}
    return {"method": "osp-fit", "forget": forget, **found, **composed, "composed_difference": 0.5, **also}


RESULTS = {
    "network": "net",
    "rows": [ROW, {"method": "esc", "error": "cannot"}],
    "sets": [a_set([0, 1], 0.01), a_set([0, 1], 0.01), a_set([0, 2], -0.03)],
}


def test_times_are_in_milliseconds_and_a_method_that_cannot_act_is_named():
    first, second = rows([RESULTS])
    assert first == [
        *("net", "osp-fit", "0.50", "256", "0.20", "1.00", "0.40", "200.00", "400", "7,000", "bit-identical")
    ]
    assert second[:3] == ["net", "esc", "cannot act"]
    assert len(first) == len(second) == len(HEADER)


def test_each_set_counts_once_and_what_was_not_repaired_has_no_row():
    joint, composed = set_rows([RESULTS])
    assert joint == ["net", "osp-fit", "2 of 2", "joint", "1.000", "1.00", "1.00", "-1.00", "-3.00", "-"]
    assert composed == ["net", "osp-fit", "2 of 2", "composed", "0.001", "0.00", "0.00", "-2.00", "-2.00", "0.50"]
    assert len(joint) == len(SET_HEADER)


def test_the_summary_names_each_network_and_device_and_every_command_is_listed_once():
    measured = {"dataset": "digits", "accuracy": 0.9, "parameters_bytes": 1024, "provenance": {"device": "cpu"}}
    commanded = [
        {**ROW, "command": "python -m a"},
        {**ROW, "command": "python -m b"},
        {**ROW, "command": "python -m a"},
    ]
    found = [{**RESULTS, **measured, "rows": commanded}]
    assert summary(found).startswith("On cpu. `net`: digits, 90.00%, 1,024 bytes of parameters.\n\n| Network |")
    assert sets_and_commands(found).endswith("Made by:\n\n- `python -m a`\n- `python -m b`")
