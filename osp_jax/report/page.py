"""The report of one evaluation, as a self-contained HTML page and as Markdown: the same words and tables in both."""

import re
from html import escape
from typing import Any

from osp_jax.report import tables
from osp_jax.report.answers import answers
from osp_jax.report.audit_contents import anchor
from osp_jax.report.contents import sections
from osp_jax.report.formats import DASH, duration, markdown_text, percent, right_aligned
from osp_jax.report.outline import NUMBERS, Section
from osp_jax.report.sentences import forgotten_names, opening
from osp_jax.report.skeleton import PAGE
from osp_jax.report.verdicts import LESS, MORE, SAME, UNTOLD

_INTERVAL = re.compile(rf" (\([^()]*\d{DASH}[-\d][^()]*\)|(?<=^never )\([^()]*\))$")


def report_markdown(evaluation: dict[str, Any]) -> str:
    """The report as Markdown, tables only."""
    parts = [f"# {markdown_text(_title(evaluation))}", " ".join(map(markdown_text, opening(evaluation)))]
    listed = [f"- {markdown_text(asked)} {markdown_text(said)}" for _, asked, said in answers(evaluation)]
    parts += ["\n".join(listed)] if listed else []
    for section in sections(evaluation):
        parts += _section_markdown(section, 2)
    return "\n\n".join(parts) + "\n"


def _section_markdown(section: Section, level: int) -> list[str]:
    rows = [tables.markdown(rows).rstrip() for rows in section.tables if rows]
    for title, details in section.details.items():
        if details:
            rows += [*([f"{title}:"] if title != NUMBERS else []), tables.markdown(details).rstrip()]
    words = [markdown_text(part) for part in (section.verdict, section.text) if part]
    inner = [part for within in section.parts for part in _section_markdown(within, level + 1)]
    empty = [markdown_text(section.when_empty)] if section.when_empty else []
    return [f"{'#' * level} {markdown_text(section.title)}", *words, *(rows or empty), *inner]


def report_html(evaluation: dict[str, Any]) -> str:
    """The report as one HTML file that needs nothing else."""
    sentences = [escape(sentence) for sentence in opening(evaluation)]
    title = escape(_title(evaluation))
    body = [f"<header>\n<h1>{title}</h1>\n<p class=lead>{' '.join(sentences[:3])}</p>"]
    body += [f"<p>{' '.join(sentences[3:])}</p>"] if sentences[3:] else []
    body += [_tiles(evaluation), _answers(evaluation), "</header>"]
    for section in sections(evaluation):
        body.append(f"<section>\n{_section_html(section, evaluation, 2)}\n</section>")
    return PAGE.substitute(title=title, body="\n".join(filter(None, body)))


def _section_html(section: Section, evaluation: dict[str, Any], level: int) -> str:
    place = f' id="{escape(section.anchor)}"' if section.anchor else ""
    body = [f"<h{level}{place}>{escape(section.title)}</h{level}>"]
    body += [f"<p class=verdict>{_verdict(section.verdict)}</p>"] if section.verdict else []
    body += [f"<p>{escape(section.text)}</p>"] if section.text else []
    rows = [html_table(rows) for rows in section.tables if rows]
    body += rows or ([f"<p class=none>{escape(section.when_empty)}</p>"] if section.when_empty else [])
    for caption, drawn in section.draw(evaluation):
        cells = "".join(f"<div>{svg}</div>\n" for svg in drawn)
        body.append(
            f"<figure>\n<div class=panels>\n{cells}</div>\n<figcaption>{escape(caption)}</figcaption>\n</figure>"
        )
    for title, details in section.details.items():
        if details:
            body.append(f"<details>\n<summary>{escape(title)}</summary>\n{html_table(details)}\n</details>")
    for part in section.parts:
        body.append(f"<div class=part>\n{_section_html(part, evaluation, level + 1)}\n</div>")
    return "\n".join(body)


def _verdict(said: str) -> str:
    """The answer, its first word stressed where it is a yes or a no."""
    word, colon, rest = said.partition(": ")
    return f"<strong>{word}:</strong> {escape(rest)}" if colon and word in ("No", "Partly", "Yes") else escape(said)


def _answers(evaluation: dict[str, Any]) -> str:
    listed = [
        f'<li><a href="#{escape(anchor(question))}">{escape(asked)}</a> {_verdict(said)}</li>'
        for question, asked, said in answers(evaluation)
    ]
    return "\n".join(["<ul class=answers>", *listed, "</ul>"]) if listed else ""


def _title(evaluation: dict[str, Any]) -> str:
    if not evaluation["forget"]:
        return f"{evaluation['model']['name']} on {evaluation['dataset']['name']}"
    return f"Forgetting {forgotten_names(evaluation)}"


def _tiles(evaluation: dict[str, Any]) -> str:
    before, after = evaluation["original"], evaluation.get("unlearned")
    if not evaluation["forget"] or not after:
        return ""
    tiles = [
        (label, f"{percent(before[key])} <span>→</span> {percent(after[key])}")
        for label, key in (("Forgotten, unseen images", "test_forget_accuracy"), ("All others", "test_retain_accuracy"))
    ]
    warm = ((evaluation.get("unlearn") or {}).get("seconds") or {}).get("warm_median")
    tiles += [("Time of the request, once compiled", duration(warm))] if warm is not None else []
    return f"<dl>{''.join(f'<div><dt>{label}</dt><dd>{value}</dd></div>' for label, value in tiles)}</dl>"


def html_table(rows: tables.Rows) -> str:
    """Rows of plain text, the first the header, as a table that scrolls where it is too wide."""
    classes = [" class=n" if right else "" for right in right_aligned(rows)]

    def line(cells: list[str], tag: str) -> str:
        marked = zip(cells, classes, strict=True)
        return f"<tr>{''.join(f'<{tag}{which}>{_cell(cell)}</{tag}>' for cell, which in marked)}</tr>"

    body = "\n".join(line(row, "td") for row in rows[1:])
    return f"<div class=scroll><table>\n<thead>{line(rows[0], 'th')}</thead>\n<tbody>\n{body}\n</tbody></table></div>"


def _cell(text: str) -> str:
    """Escaped; an interval stands on a line of its own, a verdict in one piece, stressed where more is left."""
    if text in (SAME, MORE, LESS) or text.startswith(UNTOLD):
        return f"<span class=one-line>{f'<strong>{text}</strong>' if text == MORE else text}</span>"
    return _INTERVAL.sub(r" <span class=interval>\1</span>", escape(text))
