"""Requests from texts, settings to try, and the limits of a data budget."""

import dataclasses
from typing import ClassVar

import pytest

from osp_jax.comparison.plan import check_budget, parse_methods, parse_requests, trials
from osp_jax.methods import METHODS
from osp_jax.methods.osp import Osp
from osp_jax.methods.parts.method import Method
from osp_jax.runtime.errors import InputError

NAMES = ("cat", "dog", "frog", "ship")


def test_each_is_every_class_by_itself():
    requests = parse_requests(["each"], NAMES)
    assert [request.steps for request in requests] == [((c,),) for c in range(4)]
    assert [request.name for request in requests] == list(NAMES)
    assert {request.kind for request in requests} == {"single"}


def test_sets_and_sequences_are_distinguished_and_name_the_same_classes():
    together, in_turn = parse_requests(["dog,ship", "3 then dog"], NAMES)
    assert (together.steps, in_turn.steps) == (((1, 3),), ((3,), (1,)))
    assert together.forget == in_turn.forget == (1, 3)
    assert (together.kind, in_turn.kind) == ("2 classes", "2 in sequence")
    assert (together.name, in_turn.name) == ("dog, ship", "ship then dog")


def test_a_request_that_is_given_twice_is_run_once():
    assert len(parse_requests(["each", "cat", "0"], NAMES)) == 4


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ([], "nothing to forget"),
        ([""], "no class to forget"),
        (["cow"], "unknown class 'cow'"),
        (["0,1,2,3"], "all 4 classes"),
        (["0,1 then 2,3"], "all 4 classes"),
        (["0 then 0,1"], "twice"),
        (["0 then "], "no class to forget"),
    ],
)
def test_a_request_that_cannot_be_met_is_an_input_error(texts, words):
    with pytest.raises(InputError, match=words):
        parse_requests(texts, NAMES)


def test_without_names_every_registered_method_is_compared():
    assert list(parse_methods([], [])) == [name for name, kind in METHODS.items() if not kind.only_for]


def test_options_go_to_the_method_they_name():
    methods = parse_methods(["osp", "logit-mask"], ["osp:amount=0.5"])
    assert methods["osp"] == Osp(amount=0.5)
    with pytest.raises(InputError, match="for none of the methods"):
        parse_methods(["osp"], ["osp-fit:margin=2"])


def test_of_all_methods_some_can_be_run_alone_with_the_options_they_have():
    methods = parse_methods([], ["osp:amount=0.5", "osp-fit:margin=2"], only=["osp", "logit-mask"])
    assert list(methods) == ["osp", "logit-mask"]
    assert methods["osp"] == Osp(amount=0.5)


@dataclasses.dataclass(frozen=True)
class Some(Method):
    sees: ClassVar = ("retain",)
    search: ClassVar = {"rate": (0.01, 0.1, 1.0), "steps": (5, 10)}
    rate: float = 0.1
    steps: int = 5


class Searchless(Some):
    search: ClassVar = {}


def test_trials_begin_with_the_given_settings_and_never_repeat():
    found = trials(Some(), 4)
    assert found[0] == Some()
    assert len(found) == len(set(found)) == 4
    assert len(trials(Some(), 100)) == 6  # all of 3 x 2
    assert len(trials(Some(rate=7.0), 100)) == 7


def test_the_same_method_tries_the_same_settings_whatever_the_number():
    assert trials(Some(), 3) == trials(Some(), 5)[:3]
    assert trials(Searchless(), 5) == [Searchless()]


@pytest.mark.parametrize("name", METHODS)
def test_every_value_to_try_is_a_setting_that_the_method_takes(name):
    method = METHODS[name]()
    for option, values in method.search.items():
        assert len(set(values)) == len(values) > 1
        for value in values:
            changed = dataclasses.replace(method, **{option: value})
            assert type(getattr(changed, option)) is type(getattr(method, option)), option


def test_a_budget_of_nothing_is_refused_for_what_needs_images():
    check_budget(Some(), {"retain": None, "forget": 0})
    with pytest.raises(InputError, match="needs retain examples"):
        check_budget(Some(), {"retain": 0, "forget": None})
