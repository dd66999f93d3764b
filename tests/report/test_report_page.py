import re
from html.parser import HTMLParser

import pytest

from osp_jax.report import report_html, report_markdown
from osp_jax.report.answers import answers


class _Page(HTMLParser):
    """Collects what the tests ask about: ids, references, and whether each tag is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids, self.references, self.tags, self.open = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open += [tag] if tag != "meta" else []
        for name, value in attributes:
            self.ids += [value] if name == "id" else []
            self.references += [value] if name in ("src", "href", "xlink:href") else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        self.open.pop()


def _without_retrained(evaluate):
    evaluation = evaluate()
    del evaluation["retrained"], evaluation["unlearn"]
    evaluation["channels"] = {}
    for key in ("original", "unlearned", "logit_masked"):
        evaluation[key]["measures"] = {}
        evaluation[key].pop("curves", None)
    return evaluation


def _with_some_questions(evaluate):
    evaluation = evaluate()
    for key in ("original", "unlearned", "retrained"):
        evaluation[key]["measures"] = {q: evaluation[key]["measures"][q] for q in ("membership", "probes")}
        evaluation[key]["measures"]["new_question"] = {"some_thing": {"value": 1.0, "ci95": None, "n": 1, "leak": None}}
        del evaluation[key]["curves"]["roc"]
    return evaluation


def _audited_without_retrained(evaluate):
    evaluation = evaluate()
    del evaluation["retrained"]
    return evaluation


CASES = {
    "full": lambda evaluate: evaluate(),
    "without retrained": _without_retrained,
    "some questions": _with_some_questions,
    "audited without retrained": _audited_without_retrained,
    "nothing forgotten": lambda evaluate: evaluate(10, ()),
    "two forgotten": lambda evaluate: evaluate(10, (3, 5)),
    "100 classes": lambda evaluate: evaluate(100, (7,)),
}


@pytest.fixture(scope="module", params=CASES)
def evaluation(request, evaluate):
    return CASES[request.param](evaluate)


@pytest.fixture(scope="module")
def html(evaluation):
    return report_html(evaluation)


def test_the_page_is_whole_and_self_contained(html):
    page = _Page(html)
    assert page.open == []
    assert page.tags.count("script") == 1
    assert "@import" not in html
    assert all(reference.startswith(("#", "data:")) for reference in page.references)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))


def test_ids_of_several_figures_do_not_clash(html):
    ids = _Page(html).ids
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', html)) <= set(ids)


def test_the_same_input_gives_the_same_bytes(evaluation, html):
    assert report_html(evaluation) == html
    assert report_markdown(evaluation) == report_markdown(evaluation)


def test_markdown_and_html_show_the_same_numbers(evaluation, html):
    html = re.sub(r"<svg.*?</svg>", "", html, flags=re.DOTALL)
    numbers = set(re.findall(r"[+-]?\d+\.\d+%?", report_markdown(evaluation)))
    assert numbers
    assert all(number in html for number in numbers)


def test_a_full_report_has_every_section(evaluate, default_page):
    for report in (default_page, report_markdown(evaluate())):
        for title in (
            "Accuracy",
            "taken for",
            "knowledge gone?",
            "changed in the model",
            "Time and data",
            "Provenance",
        ):
            assert title in report
        assert "Not run." not in report


def test_what_was_not_run_is_stated(evaluate):
    for report in (report_html(_without_retrained(evaluate)), report_markdown(_without_retrained(evaluate))):
        assert "the ideal to compare with, was not run" in report
        assert report.count("Not run.") == 1
        assert "was not examined, and accuracy alone cannot tell" in report
        assert "Time and data" not in report


def test_questions_that_were_left_out_are_stated_to_be(evaluate):
    for report in (report_html(_with_some_questions(evaluate)), report_markdown(_with_some_questions(evaluate))):
        assert report.count("Not run.") == 3
        assert "New question" in report
        assert "Some thing" in report


def test_the_page_says_the_questions_in_their_order_with_their_answers(evaluate, default_page):
    evaluation = evaluate()
    for report, heading in ((default_page, "{}</h3>"), (report_markdown(evaluation), "### {}")):
        places = [report.index(heading.format(asked)) for _, asked, _ in answers(evaluation)]
        assert places == sorted(places)
        assert len(places) == 5


def test_a_plain_model_is_not_said_to_have_forgotten(evaluate):
    for report in (report_html(evaluate(10, ())), report_markdown(evaluate(10, ()))):
        assert "was not asked to forget anything" in report
        assert "Unlearned" not in report
        assert "Logit masked" not in report


def test_class_names_are_escaped(evaluate):
    evaluation = evaluate()
    evaluation["dataset"]["class_names"][3] = "<script>alert('&|$body{')</script>"
    html, markdown = report_html(evaluation), report_markdown(evaluation)
    assert "<script>alert" not in html
    assert "&lt;script&gt;" in html
    assert "<script" not in markdown
    assert "\\|" in markdown


def test_the_page_has_light_dark_and_print_styles(default_page):
    html = default_page
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html
    assert html.startswith("<!doctype html>")
    assert '<meta charset="utf-8">' in html
