"""The settings that a comparison selected, as text that gives the same method again."""

import dataclasses
import json

import pytest

from osp_jax.comparison.chosen import chosen_settings
from osp_jax.methods import METHODS, method_name, parse_options
from osp_jax.methods.osp_fit import OspFit
from osp_jax.runtime.errors import InputError


def results(path, *methods):
    cells = [
        {
            "seed": 0,
            "request": "3",
            "kind": "single",
            "forget": [3],
            "method": method_name(method),
            "options": dataclasses.asdict(method),
            "error": "none",
        }
        for method in methods
    ]
    path.write_text(json.dumps({"cells": cells}))
    return path


def test_the_settings_of_every_method_survive(tmp_path):
    path = results(tmp_path / "results.json", *(kind() for kind in METHODS.values()))
    for name, kind in METHODS.items():
        assert parse_options(name, chosen_settings(path, name)) == kind()


def test_later_settings_replace_the_chosen_ones(tmp_path):
    path = results(tmp_path / "results.json", OspFit(margin=3.0, steps=7))
    chosen = chosen_settings(path, "osp-fit")
    assert parse_options("osp-fit", chosen) == OspFit(margin=3.0, steps=7)
    assert parse_options("osp-fit", [*chosen, "steps=9"]) == OspFit(margin=3.0, steps=9)


def test_other_files_are_refused(tmp_path):
    path = results(tmp_path / "results.json", OspFit())
    with pytest.raises(InputError, match="no row of osp; leave --settings out"):
        chosen_settings(path, "osp")
    path.write_text(json.dumps({"rows": []}))
    with pytest.raises(InputError, match="cells"):
        chosen_settings(path, "osp")
    with pytest.raises(InputError, match="does not exist"):
        chosen_settings(tmp_path / "nothing.json", "osp")
