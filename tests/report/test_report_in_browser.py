"""The page in a real browser: Debian's package `chromium` is enough."""

import pytest

from osp_jax.report.comparison import comparison_html
from osp_jax.report.federated import federated_html
from osp_jax.report.formats import DASH, NOTHING
from osp_jax.runtime.workdir import read_json
from tests.experiments.conftest import ROOT
from tests.report.chromium import Chromium, find_chromium

PROGRAM = find_chromium()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium here; apt-get install chromium")

TABLE = "document.querySelector('h3[id=audit-relearning]').parentNode.querySelector('table')"
_MIXED = """<table><thead><tr><th>Name</th><th>Value</th></tr></thead><tbody>
{rows}</tbody></table>"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Chromium(PROGRAM, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def page(default_page, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(default_page, encoding="utf-8")
    return path


def column(browser, number):
    return browser.run(f"[...{TABLE}.tBodies[0].rows].map(row => row.cells[{number}].textContent)")


@pytest.mark.parametrize(("study", "html"), [("federated", federated_html), ("benchmark", comparison_html)])
def test_the_page_of_a_study_fits_on_a_phone(browser, tmp_path, study, html):
    results = read_json(ROOT / "results" / study / "digits" / "results.json")
    (tmp_path / "report.html").write_text(html(results), encoding="utf-8")
    browser.open(tmp_path / "report.html", 390)
    assert browser.errors == []
    assert browser.run("document.querySelectorAll('section svg').length") > 0
    assert browser.run("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_loads_without_an_error_and_fits(browser, page, width, dark):
    browser.open(page, width, dark=dark)
    assert browser.errors == []
    assert browser.run("innerWidth") == width
    assert browser.run("document.documentElement.scrollWidth") <= width
    paper = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) < 128) == dark


def test_an_error_on_a_page_is_seen(browser, tmp_path):
    broken = tmp_path / "broken.html"
    broken.write_text("<script>console.error('one'); undefined.two</script>")
    browser.open(broken, 800)
    assert len(browser.errors) == 2


@pytest.mark.parametrize("width", [1280, 390])
def test_every_figure_is_there_and_has_a_size(browser, page, width):
    browser.open(page, width)
    sizes = browser.run(
        "[...document.querySelectorAll('figure svg')].map(svg => {"
        " const r = svg.getBoundingClientRect(), ink = svg.getBBox();"
        " return [svg.getAttribute('aria-label'), r.width, r.height, ink.width * ink.height, r.right]; })"
    )
    titles = [title for title, *_ in sizes]
    for part in ("Test accuracy", "Confusion matrix", "forgotten images", "ROC curve", "Relearning", "Likeness"):
        assert any(part in title for title in titles), part
    assert sum("Map of the features" in title for title in titles) == 3
    assert any("Channel scores" in title for title in titles)
    assert all(w > 200 and h > 50 and ink > 0 and right <= width for _, w, h, ink, right in sizes)


def test_a_click_on_a_header_sorts_and_a_third_restores_the_order(browser, page):
    browser.open(page, 1280)
    browser.run(f"{TABLE}.id = 'sorted'")
    own = column(browser, 1)
    header = "#sorted th:nth-child(2)"
    orders = []
    for _ in range(3):
        browser.click(f"{header} button")
        orders.append((browser.run(f"document.querySelector('{header}').ariaSort"), column(browser, 1)))
    by_number = sorted(own, key=float)
    assert own != by_number
    assert orders == [("ascending", by_number), ("descending", by_number[::-1]), (None, own)]


def test_headers_sort_from_the_keyboard(browser, page):
    browser.open(page, 1280)
    browser.run(f"{TABLE}.tHead.querySelectorAll('button')[1].focus()")
    browser.press("Enter", "\r")
    assert browser.run(f"{TABLE}.tHead.rows[0].cells[1].ariaSort") == "ascending"


@pytest.mark.parametrize(
    "ascending",
    [
        ["410 µs", "1.2 ms", "0.5 s", "64 s", "1.5 min", NOTHING],
        ["<0.1%", "0.1%", f"9.5% (1{DASH}20)", f"12.3% (1.0{DASH}2.0)", ">99.9%", "100.0%", NOTHING],
        ["<-150", "-150", "-3.5 points", "+0.0 points", "+12 points", ">+160"],
        ["9", "1,000", "10,000", "never (200 steps)", NOTHING],
        ["as the retrained", "less is left", "more is left", NOTHING],
    ],
)
def test_cells_are_ordered_by_what_they_mean(browser, page, tmp_path, ascending):
    mixed = ascending[1::2][::-1] + ascending[::2]
    rows = "".join(f"<tr><td>row</td><td>{cell.replace('<', '&lt;')}</td></tr>" for cell in mixed)
    head, script = (
        page.read_text(encoding="utf-8").split("<body>")[0],
        page.read_text(encoding="utf-8").split("<script>"),
    )
    made = tmp_path / "mixed.html"
    made.write_text(f"{head}<body>{_MIXED.format(rows=rows)}<script>{script[1]}", encoding="utf-8")
    browser.open(made, 800)
    cells = "[...document.querySelectorAll('td:nth-child(2)')].map(cell => cell.textContent)"
    browser.click("th:nth-child(2) button")
    assert browser.run(cells) == ascending
    browser.click("th:nth-child(2) button")
    known = [cell for cell in ascending if cell != NOTHING]
    assert browser.run(cells) == known[::-1] + [NOTHING] * (len(ascending) - len(known))


def test_the_page_stays_whole_without_scripts(browser, page):
    browser.ask("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page, 390)
        assert browser.run("document.querySelectorAll('th button').length") == 0
        assert browser.run("document.querySelectorAll('th').length") > 20
        assert browser.run("document.documentElement.scrollWidth") <= 390
    finally:
        browser.ask("Emulation.setScriptExecutionDisabled", value=False)


def test_every_table_fits_on_a_printed_page(browser, page):
    browser.open(page, 718)  # A4 less margins of 1 cm
    browser.ask("Emulation.setEmulatedMedia", media="print")
    try:
        assert browser.run("document.documentElement.scrollWidth") <= 718
        assert browser.run("[...document.querySelectorAll('table')].filter(t => t.offsetWidth > 718).length") == 0
    finally:
        browser.ask("Emulation.setEmulatedMedia", media="")


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_the_four_answers_are_on_the_first_screen(browser, page, width, height):
    browser.open(page, width, height)
    asked = browser.run("[...document.querySelectorAll('.glance dt')].map(e => e.textContent)")
    assert asked == ["Forgotten?", "Others harmed?", "How sure?", "What next?"]
    assert browser.run("document.querySelector('.glance').getBoundingClientRect().bottom") <= height
