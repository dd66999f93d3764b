"""Settings: each with a type, a range and a default, and one line for invalid values."""

import importlib
import math
from pathlib import Path

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import default
from configs.benchmark import default as comparison
from configs.paper import default as study
from osp_jax.runtime import settings
from osp_jax.runtime.errors import InputError
from osp_jax.runtime.settings import Comparison, Experiment, Federated, Study, completed, of_any_version, validated

ROOT = Path(__file__).parents[2]
FIELDS = flatten_dict(completed({}), sep=".")
NUMBERS = [name for name, value in FIELDS.items() if type(value) in (int, float)]
WHOLE = [name for name, value in FIELDS.items() if type(value) is int]


def changed(name: str, value: object) -> dict:
    fields = completed({})
    *sections, field = name.split(".")
    (fields[sections[0]] if sections else fields)[field] = value
    return fields


def refusal(fields: object, kind: type = Experiment) -> str:
    with pytest.raises(InputError) as caught:
        validated(fields, kind)
    message = str(caught.value)
    assert len(message) < 600
    assert message.isprintable()
    assert "; " in message
    return message


def test_the_defaults_are_those_of_the_config_files():
    assert completed({}) == default.get_config().to_dict()
    assert completed({}, Comparison) == comparison.get_config().to_dict()


def test_a_record_of_before_there_were_two_convolutions_has_those_for_cpus():
    old = completed({})
    del old["model"]["convolution"]
    assert of_any_version(old)["model"]["convolution"] == "cpu"
    assert of_any_version({"original": old})["original"]["model"]["convolution"] == "cpu"
    assert of_any_version(completed({})) == completed({})


@pytest.mark.parametrize("file", sorted((ROOT / "configs").rglob("*.py")), ids=str)
def test_every_config_file_is_valid(file):
    if file.name == "__init__.py":
        return
    config = importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts)).get_config()
    kinds = {"benchmark": Comparison, "paper": Study, "federated": Federated}
    assert validated(config, kinds.get(file.parent.name, Experiment)) is config


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, -(10**30), 10**30, None, "5", [], {}, {1}, print, True]
)
@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_no_number_of_the_range_is_refused_and_named(name, value):
    if value == 10**30 and name not in WHOLE:
        return  # large, and of no use, but a number that one may try
    assert refusal(changed(name, value)).startswith(f"config.{name} is ")


@pytest.mark.parametrize("value", [0.5, np.int64(3), np.float32(1), np.zeros(3)], ids=repr)
@pytest.mark.parametrize("name", WHOLE)
def test_an_integer_is_a_python_integer(name, value):
    assert f"config.{name} is " in refusal(changed(name, value))


@pytest.mark.parametrize("name", [name for name in FIELDS if name not in NUMBERS])
@pytest.mark.parametrize(
    "value", [None, 3.5, {"a": 1}, {1, 2}, b"x", print, np.zeros(2), "a\x1b[2J", "\ud800"], ids=repr
)
def test_what_is_no_text_switch_or_list_is_refused_and_named(name, value):
    assert refusal(changed(name, value)).startswith(f"config.{name} is ")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (
            "training.learning_rate",
            math.nan,
            "config.training.learning_rate is nan; give a finite number of at least 0",
        ),
        ("training.epochs", 0, "config.training.epochs is 0; give an integer from 1 to 1000000"),
        ("training.warmup", 1, "config.training.warmup is 1; give a finite number above 0 and below 1"),
        ("seed", -1, "config.seed is -1; give an integer from 0 to 2147483647"),
        ("seed", 2**63, "config.seed is 9223372036854775808; give an integer from 0 to 2147483647"),
        ("model.width", 10**6, "config.model.width is 1000000; give an integer from 0 to 65536"),
        ("data.image_size", 10**6, "config.data.image_size is 1000000; give"),
        ("data.std", (0.5, 0.0, 0.5), "config.data.std is (0.5, 0.0, 0.5); give numbers above 0"),
        ("data.mean", (0.5, math.nan, 0.5), "config.data.mean is (0.5, nan, 0.5); give numbers from 0 to 1"),
        ("orthogonality.schedule", ((0,),), "config.orthogonality.schedule is ((0,),); give pairs (epoch, factor)"),
        ("data.name", "", "config.data.name is ''; give 'digits', the name of a TFDS set"),
        ("data.flip", "yes", "config.data.flip is 'yes'; give True or False"),
        ("data.padd", 3, "config.data.padd is no setting; choose one of: name, dir"),
        ("model", None, "config.model is None; give a group of settings"),
        ("model", ConfigDict, "give a group of settings"),
    ],
)
def test_the_line_says_the_setting_its_value_and_the_remedy(name, value, words):
    assert words in refusal(changed(name, value))


def test_a_long_value_is_cut():
    assert len(refusal(changed("training.schedule", "x" * 100_000))) < 200


@pytest.mark.parametrize("config", [None, 3, [], "config", ConfigDict({"seed": placeholder(int)}), print])
def test_what_is_no_config_is_refused(config):
    assert "config" in refusal(config)


def test_a_config_that_refers_to_itself_is_refused():
    fields = completed({})
    fields["data"] = fields
    assert "config.data" in refusal(fields)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seeds": (0, 0)}, "config.seeds is (0, 0); give different integers"),
        ({"seeds": (-1,)}, "config.seeds is (-1,)"),
        ({"methods": ("osp", "osp")}, "config.methods"),
        ({"methods": "osp"}, "config.methods"),
        ({"budget": {"retain": -2, "forget": 0}}, "config.budget.retain is -2; give an integer from -1"),
        ({"timing": {"limit": math.nan}}, "config.timing.limit is nan"),
        ({"original": completed({}) | {"seed": 0.5}}, "config.original.seed is 0.5"),
        ({"trials": 3}, "config.trials is no setting"),
    ],
)
def test_a_comparison_is_checked_down_to_the_training_of_its_original(change, words):
    assert words in refusal(completed({}, Comparison) | change, Comparison)


def test_a_study_is_checked():
    config = study.get_config()
    config.entries.cifar10_vgg16.shadows = -2
    assert "config.entries" in refusal(config, Study)


def test_a_config_that_lacks_a_setting_gets_its_default():
    fields = completed({})
    del fields["features"], fields["training"]["norm_bias_rate"]
    made = validated(ConfigDict(fields))
    assert made.training.norm_bias_rate == 1.0
    assert made.features.penalty == "none"
    assert made.to_dict() == completed({})


def test_a_setting_with_a_former_name_is_read_with_a_warning(capsys):
    settings._warn_renamed.cache_clear()
    fields = completed({})
    fields["statistics"]["tails"] = 30
    assert validated(ConfigDict(fields)).statistics.cached_inputs == 30
    assert validated(fields).statistics.cached_inputs == 30
    assert capsys.readouterr().err == "warning: the setting statistics.tails is now called cached_inputs; rename it\n"


def test_a_whole_config_comes_back_as_it_is():
    config = default.get_config()
    assert validated(config) is config
