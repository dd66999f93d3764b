"""The pages that the documentation site is built from: links are right on it, and each method has its page."""

import re
import sys
from pathlib import Path

import pytest

from osp_jax.methods import METHODS
from osp_jax.methods.parts.options import describe_options
from osp_jax.report.comparison_tables import kinds
from osp_jax.runtime.workdir import read_json
from tests.documents import ROOT, texts_in_code

sys.path.insert(0, str(ROOT / "docs" / "extensions"))
import method_pages
import repository_pages
import result_figures

sys.path.pop(0)
PAGE = ROOT / "docs" / "page.md"


def linked(text: str, origin: Path = PAGE, page: Path = PAGE) -> str:
    return repository_pages.with_site_links(text, origin, page)


def test_a_link_to_a_page_of_the_site_stays():
    assert linked("[a](limits.md#x), [b](https://a.b/c.md)") == "[a](limits.md#x), [b](https://a.b/c.md)"


def test_a_link_to_a_file_that_is_copied_leads_to_the_copy():
    assert linked("[the table](../results/brought/table.md)") == "[the table](generated/results/brought/table.md)"
    assert linked("[`how`](../CONTRIBUTING.md#figures)") == "[`how`](generated/CONTRIBUTING.md#figures)"
    assert linked("[home](../README.md)") == "[home](index.md)"


def test_a_copy_links_from_its_new_place():
    origin, page = ROOT / "results" / "README.md", ROOT / "docs" / "generated" / "results" / "README.md"
    assert linked("[text](../docs/text.md)", origin, page) == "[text](../../text.md)"
    assert linked("[a](brought/table.md)", origin, page) == "[a](brought/table.md)"


def test_a_folder_is_no_link_and_a_name_of_a_file_becomes_a_title():
    assert linked("[results/](../results), [limits.md](limits.md#x)") == "results/, [](limits.md#x)"


def test_code_is_left_alone():
    for text in ("`[a](../results)`", "```md\n[a](../results)\n```"):
        assert linked(text) == text


def test_a_copy_shows_the_picture_beside_its_original():
    origin, page = (root / "results" / "orthogonality" / "table.md" for root in (ROOT, ROOT / "docs" / "generated"))
    shown = "![trade-off](../../../../results/orthogonality/tradeoff.svg)"
    assert linked("![trade-off](tradeoff.svg)", origin, page) == shown
    assert linked("![size](scaling.svg)") == "![size](scaling.svg)"


@pytest.mark.parametrize("facts", method_pages.all_methods(), ids=lambda facts: facts.name)
def test_the_page_of_a_method_has_every_setting_and_its_default(facts):
    page = method_pages.method_page(facts)
    assert page.startswith(f"# {facts.name}\n")
    for option in describe_options(METHODS[facts.name]):
        assert f"\n`{option.name}` (" in page
        assert f"default `{option.default!r}`)" in page


def test_a_docstring_becomes_markdown_without_emphasis_that_it_does_not_mean():
    text = "By arXiv 2303.11570 (github.com/a/b_c):\n\n    a * b\n\nwith a * b, x_1 and\n`a * b`."
    assert method_pages.as_markdown(text) == (
        "By [arXiv 2303.11570](https://arxiv.org/abs/2303.11570) ([github.com/a/b_c](https://github.com/a/b_c)):\n\n"
        "```text\na * b\n```\n\nwith a \\* b, x\\_1 and `a * b`."
    )


def test_the_page_of_a_method_has_its_committed_figures():
    page = method_pages.method_page(next(facts for facts in method_pages.all_methods() if facts.name == "esc"))
    assert "| esc |" in page
    assert "results/benchmark/digits/table.md" in page
    assert "| vit |" in page


def test_code_in_a_docstring_ends_before_a_space_or_a_mark():
    """reStructuredText, in which the site reads docstrings, does not end it before a letter: `x`s."""
    wrong = [text for text in texts_in_code(ROOT / "osp_jax") if re.search(r"(?<!\w)`[\w.]+`[a-zA-Z]", text)]
    assert wrong == []


def test_the_page_of_a_comparison_has_three_figures_under_each_kind_of_request():
    folder = ROOT / "results" / "benchmark" / "digits"
    results = read_json(folder / "results.json")
    page = result_figures.with_figures((folder / "table.md").read_text(encoding="utf-8"), results)
    sections = page.split("\n## ")[1:]
    assert [section.count("<svg") for section in sections] == [3] * len(kinds(results)) + [0]
    assert ">osp-fit<" in sections[0]
