"""The report of one evaluation, as a self-contained HTML page and as Markdown, with the same text and tables."""

from typing import Any

from osp_jax.report import tables
from osp_jax.report.answers import answers
from osp_jax.report.at_a_glance import at_a_glance
from osp_jax.report.audit_contents import anchor
from osp_jax.report.contents import sections
from osp_jax.report.formats import markdown_text
from osp_jax.report.outline import NUMBERS, Section
from osp_jax.report.pages import render
from osp_jax.report.sentences import forgotten_names, opening


def report_markdown(evaluation: dict[str, Any]) -> str:
    """The report as Markdown, tables only."""
    parts = [f"# {markdown_text(_title(evaluation))}"]
    glance = [f"- **{one.question} {one.answer}.** {markdown_text(one.said)}" for one in at_a_glance(evaluation)]
    parts += ["\n".join(glance)] if glance else []
    parts.append(" ".join(map(markdown_text, opening(evaluation))))
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
    """The report as a self-contained HTML file."""
    return render(
        "evaluation.html",
        title=_title(evaluation),
        glance=at_a_glance(evaluation),
        opening=opening(evaluation),
        answers=[(anchor(question), asked, said) for question, asked, said in answers(evaluation)],
        sections=sections(evaluation),
        evaluation=evaluation,
    )


def _title(evaluation: dict[str, Any]) -> str:
    if not evaluation["forget"]:
        return f"{evaluation['model']['name']} on {evaluation['dataset']['name']}"
    return f"Forgetting {forgotten_names(evaluation)}"
