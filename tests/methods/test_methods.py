"""The registry, options as text, and properties of every method."""

import dataclasses
import sys
from pathlib import Path
from types import ModuleType

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from osp_jax.methods import METHODS, get_method, method_name, parse_options, unlearn_classes
from osp_jax.methods.osp import Osp
from osp_jax.methods.osp_fit import OspFit
from osp_jax.methods.parts.method import Method
from osp_jax.runtime.errors import InputError
from osp_jax.trees import changed_paths
from tests.methods.conftest import request_of

WITHOUT_IMAGES = [name for name in METHODS if not (get_method(name).sees or get_method(name).only_for)]


@pytest.mark.parametrize("name", WITHOUT_IMAGES)
def test_a_registered_method_has_options_with_defaults_and_the_common_signature(name, flat_mlp):
    new = request_of(name, flat_mlp, (1,))
    before, after = flat_mlp.model.variables, new.variables
    assert jax.tree.structure(after) == jax.tree.structure(before)
    changed = jax.tree.leaves(jax.tree.map(lambda a, b: not np.array_equal(a, b), after, before))
    assert any(changed)
    assert not all(changed)


@pytest.mark.parametrize("name", WITHOUT_IMAGES)
def test_a_request_does_not_change_what_it_was_given(name, flat_mlp):
    before = jax.tree.map(np.array, (flat_mlp.model.variables, flat_mlp.statistics))
    request_of(name, flat_mlp, (0, 2))
    jax.tree.map(np.testing.assert_array_equal, (flat_mlp.model.variables, flat_mlp.statistics), before)


@pytest.mark.parametrize("name", WITHOUT_IMAGES)
def test_the_same_request_has_the_same_result(name, flat_mlp):
    jax.tree.map(np.testing.assert_array_equal, *(request_of(name, flat_mlp, (1,)).variables for _ in range(2)))


def test_an_unknown_method_is_an_input_error_that_lists_them():
    with pytest.raises(InputError, match="logit-mask, osp, osp-fit"):
        get_method("prune")


def test_options_are_read_by_the_type_of_their_defaults():
    options = parse_options("osp", ["layers=stage[34]", "amount=0.5", "erase=true", "standardised=False"])
    assert options == Osp(layers="stage[34]", amount=0.5, erase=True, standardised=False)
    options = parse_options("osp-fit", ["steps=7", "margin=3", "learning_rate=1e-2", "draws=1e2"])
    assert options == OspFit(steps=7, margin=3.0, learning_rate=0.01, draws=100)
    assert isinstance(options.margin, float)
    assert isinstance(options.draws, int)


def test_a_text_option_may_contain_an_equals_sign():
    assert parse_options("osp", ["layers=a=b"]).layers == "a=b"


@pytest.mark.parametrize("name", METHODS)
def test_without_assignments_the_options_are_the_defaults(name):
    assert parse_options(name, []) == get_method(name)()


@pytest.mark.parametrize("name", METHODS)
def test_a_method_knows_its_name_and_is_hashable(name):
    method = get_method(name)()
    assert method_name(method) == method_name(type(method)) == name
    assert hash(method) == hash(get_method(name)())


@pytest.mark.parametrize("name", METHODS)
def test_what_a_comparison_may_try_are_values_that_the_method_takes(name):
    kind = get_method(name)
    for option, values in kind.search.items():
        assert len({kind(**{option: value}) for value in values}) == len(values)


def test_a_method_of_ones_own_goes_by_the_name_of_its_class():
    class Mine(Method):
        pass

    assert method_name(Mine()) == "Mine"


@pytest.mark.parametrize(
    ("name", "assignment"),
    [
        ("osp", "amount=much"),
        ("osp", "amount="),
        ("osp", "amount"),
        ("osp", "amount=True"),
        ("osp", "amount=[1]"),
        ("osp", "amount='1'"),
        ("osp", "erase=1"),
        ("osp", "erase=perhaps"),
        ("osp", "erase"),
        ("osp-fit", "steps=2.5"),
        ("osp-fit", "steps=True"),
        ("osp-fit", "steps=__import__('os')"),
        ("osp-fit", "steps=1e999"),
        ("osp-fit", "steps=" + "9" * 30),
        ("osp", "amount=1e999"),
        ("osp", "amount=-1e999"),
        ("osp", "amount=nan"),
        ("osp", "amount=" + "(" * 10_000),
        ("osp", "amount=" + "-" * 100_000 + "1"),
    ],
)
def test_a_value_of_the_wrong_type_is_an_input_error_that_names_the_option(name, assignment):
    with pytest.raises(InputError, match=assignment.partition("=")[0]):
        parse_options(name, [assignment])


@pytest.mark.parametrize(("name", "known"), [("osp", "amount"), ("osp-fit", "margin"), ("logit-mask", "none")])
def test_an_unknown_option_is_an_input_error_that_lists_the_options(name, known):
    with pytest.raises(InputError, match=known):
        parse_options(name, ["strenght=hard"])


WRONG = {
    bool: [1, "True", None],
    int: [float("nan"), float("inf"), -float("inf"), -(10**30), 1.5, "1", None, True],
    float: [float("nan"), float("inf"), -float("inf"), -1e30, "1", None, True],
    str: ["x" * 100_000, 3, None],
}


@pytest.mark.parametrize("name", METHODS)
def test_an_option_of_another_type_or_out_of_range_is_refused_in_one_short_line(name):
    kind = METHODS[name]
    for field in dataclasses.fields(kind):
        for value in WRONG[type(field.default)]:
            with pytest.raises(InputError, match=field.name) as raised:
                kind(**{field.name: value})
            assert len(str(raised.value)) < 300
            assert "\n" not in str(raised.value)


@pytest.mark.parametrize("amount", [0.25, 0, -1, 1.5])
def test_top_k_without_a_number_of_channels_is_refused(amount):
    with pytest.raises(InputError, match="with select=top-k give a number of channels, such as amount=4"):
        Osp(select="top-k", amount=amount)
    assert Osp(select="top-k", amount=4).amount == 4


@given(st.floats(0, 1), st.integers(0, 2**31 - 1))
def test_numbers_survive_as_text(amount, steps):
    assert parse_options("osp", [f"amount={amount!r}"]).amount == amount
    assert parse_options("osp-fit", [f"steps={steps}"]).steps == steps


def test_the_example_of_the_documentation_is_a_method(flat_mlp, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "adding_a_method.md").read_text(encoding="utf-8")
    module = ModuleType("shrink_head")
    monkeypatch.setitem(sys.modules, "shrink_head", module)
    exec(page.split("```python\n")[1].split("```")[0], vars(module))
    new = unlearn_classes(
        module.ShrinkHead(0.5), flat_mlp.model, (1, 3), statistics=flat_mlp.statistics, rng=jax.random.key(0)
    )
    assert changed_paths(flat_mlp.model.variables, new.variables) == ("params/Dense_2/kernel",)
    before, after = (model.variables["params"]["Dense_2"]["kernel"] for model in (flat_mlp.model, new))
    np.testing.assert_array_equal(after, before * np.array([1, 0.5, 1, 0.5, 1], np.float32))
    with pytest.raises(InputError, match="factor"):
        module.ShrinkHead(factor=2.0)
