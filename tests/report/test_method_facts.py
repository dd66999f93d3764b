"""What is said of a method, read off its class and docstring."""

import pytest

from osp_jax.methods import METHODS
from osp_jax.report.method_facts import all_methods, method_facts
from osp_jax.runtime.errors import InputError


def test_a_method_of_a_paper_has_its_paper_images_and_gradients():
    facts = method_facts("scrub")
    assert facts.papers == ("2302.09880",)
    assert (facts.images, facts.descends) == ("both", True)
    assert facts.title.startswith("SCRUB: ")
    assert "NeurIPS 2023" in facts.details
    assert not facts.details.startswith("SCRUB: ")


def test_a_method_of_ours_has_no_paper():
    facts = method_facts("osp-fit")
    assert (facts.papers, facts.images, facts.descends) == ((), "none", False)


def test_every_method_has_a_title_of_one_line():
    titles = {facts.name: facts.title for facts in all_methods()}
    assert list(titles) == list(METHODS)
    assert all(title.endswith(".") and "\n" not in title for title in titles.values())


def test_an_unknown_method_is_refused():
    with pytest.raises(InputError, match="unknown method"):
        method_facts("osp-fitt")
