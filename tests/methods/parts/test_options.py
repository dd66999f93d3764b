"""The declaration of a method's options, and their description."""

import dataclasses

import pytest

from experiments.cli import method_help
from osp_jax.federated.methods import METHODS as FEDERATED
from osp_jax.methods import METHODS
from osp_jax.methods.parts.options import check_options, describe_options, option
from osp_jax.runtime.errors import InputError


@dataclasses.dataclass(frozen=True)
class Sample:
    steps: int = option(10, "steps of Adam", low=1, source="a paper")
    share: float = option(0.5, "share of the images", low=0, high=1)
    place: str = option("gate", "where", choices=("gate", "kernel", "head"))
    name: str = option("", "any name")
    cut: float = option(3.0, "upper bound alone", high=9)
    plain: int = 7

    def __post_init__(self) -> None:
        check_options(self)


ALL = {**METHODS, **FEDERATED}


def test_what_is_declared_is_what_is_described():
    steps, share, place, name, cut, plain = describe_options(Sample)
    assert dataclasses.asdict(steps) == {
        "name": "steps",
        "type": int,
        "default": 10,
        "meaning": "steps of Adam",
        "source": "a paper",
        "low": 1,
        "high": None,
        "choices": (),
    }
    values = [one.values for one in (steps, share, place, name, cut, plain)]
    assert values == [
        "int, at least 1",
        "float, from 0 to 1",
        "gate, kernel or head",
        "text",
        "float, at most 9",
        "int",
    ]
    assert describe_options(Sample(steps=3)) == describe_options(Sample)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 0}, "option steps is 0; give a number of at least 1"),
        ({"share": 1.5}, "option share is 1.5; give a number from 0 to 1"),
        ({"cut": 10.0}, "option cut is 10.0; give a number of at most 9"),
        ({"place": "here"}, "unknown place 'here'; choose one of: gate, kernel, head"),
        ({"plain": "7"}, "option plain is '7'; give an integer"),
    ],
)
def test_a_value_outside_its_declaration_is_refused(given, message):
    with pytest.raises(InputError) as raised:
        Sample(**given)
    assert str(raised.value) == message


def test_a_range_at_the_call_replaces_the_declared_one():
    check_options(Sample(steps=100), steps=(50, None))
    with pytest.raises(InputError, match="option steps is 10; give a number from 50 to 60"):
        check_options(Sample(), steps=(50, 60))


@pytest.mark.parametrize("name", ALL)
def test_each_option_of_each_method_has_a_meaning_and_a_default_within_its_range(name):
    for one in describe_options(ALL[name]):
        assert one.meaning
        assert not one.meaning.endswith(".")
    assert len(describe_options(ALL[name])) == len(dataclasses.fields(ALL[name]))
    ALL[name]()


@pytest.mark.parametrize("name", METHODS)
def test_the_help_of_a_method_names_each_option_with_its_values_default_and_meaning(name):
    text = method_help(name)
    words = " ".join(text.split())
    for one in describe_options(METHODS[name]):
        assert f"  {one.name}: {one.values} (default: {one.default!r})" in text
        assert one.meaning in words
        assert one.source in words
