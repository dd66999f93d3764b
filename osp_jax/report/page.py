"""The report of one evaluation, as a self-contained HTML page and as Markdown: the same words and tables in both."""

from collections.abc import Callable
from html import escape
from typing import Any, NamedTuple

from osp_jax.report import figures, tables
from osp_jax.report.formats import duration, markdown_text, percent, right_aligned
from osp_jax.report.sentences import forgotten_names, summary
from osp_jax.report.skeleton import PAGE

Drawn = list[tuple[str, list[str]]]  # caption, SVGs


class Section(NamedTuple):
    """A heading, its explanation, tables (the empty ones are left out), details and, in HTML only, figures."""

    title: str
    text: str
    tables: list[tables.Rows]
    details: tables.Rows | None = None
    draw: Callable[[dict[str, Any]], Drawn] = lambda _: []
    when_empty: str = ""  # said in place of the tables; without it an empty section is left out


def report_markdown(evaluation: dict[str, Any]) -> str:
    """The report as Markdown, tables only."""
    parts = [f"# {markdown_text(_title(evaluation))}", " ".join(map(markdown_text, summary(evaluation)))]
    for section in _sections(evaluation):
        rows = [tables.markdown(rows).rstrip() for rows in (*section.tables, section.details) if rows]
        parts += [f"## {section.title}", *filter(None, [markdown_text(section.text)]), *(rows or [section.when_empty])]
    return "\n\n".join(parts) + "\n"


def report_html(evaluation: dict[str, Any]) -> str:
    """The report as one HTML file that needs nothing else."""
    sentences = [escape(sentence) for sentence in summary(evaluation)]
    title = escape(_title(evaluation))
    body = [f"<header>\n<h1>{title}</h1>\n<p class=lead>{' '.join(sentences[:3])}</p>"]
    body += [f"<p>{' '.join(sentences[3:])}</p>"] if sentences[3:] else []
    body += [_tiles(evaluation), "</header>"]
    for section in _sections(evaluation):
        rows = [html_table(rows) for rows in section.tables if rows]
        body += [f"<section>\n<h2>{section.title}</h2>", f"<p>{escape(section.text)}</p>" if section.text else ""]
        body += rows or ([f"<p class=none>{section.when_empty}</p>"] if section.when_empty else [])
        for caption, drawn in section.draw(evaluation):
            cells = "".join(f"<div>{svg}</div>\n" for svg in drawn)
            body.append(
                f"<figure>\n<div class=panels>\n{cells}</div>\n<figcaption>{escape(caption)}</figcaption>\n</figure>"
            )
        if section.details:
            body.append(f"<details>\n<summary>The same in numbers</summary>\n{html_table(section.details)}\n</details>")
        body.append("</section>")
    return PAGE.substitute(title=title, body="\n".join(filter(None, body)))


def _title(evaluation: dict[str, Any]) -> str:
    if not evaluation["forget"]:
        return f"{evaluation['model']['name']} on {evaluation['dataset']['name']}"
    return f"Forgetting {forgotten_names(evaluation)}"


def _sections(evaluation: dict[str, Any]) -> list[Section]:
    forget, classes = evaluation["forget"], tables.class_table(evaluation)
    intervals = "Share of images recognised; in brackets the 95% interval (Wilson) of the unseen test images. "
    models = (
        "Retrained: trained from scratch without the forgotten images, the ideal. "
        "Logit masked: the original with only its forgotten answers hidden, all it knows still inside."
    )
    sections = [
        Section(
            "Accuracy", intervals + (models if forget else ""), [tables.accuracy_table(evaluation)], classes, _accuracy
        )
    ]
    if forget:
        sections += [
            Section(
                "What forgotten images are taken for",
                "A model that never saw a class takes its images for something else; the retrained one shows for what.",
                [],
                tables.destinations(evaluation),
                _destinations,
            ),
            Section(
                "Is the knowledge gone?",
                "What remains can show in ways that accuracy does not. The yardstick is the retrained model: "
                "the closer to it, the better. In brackets the 95% interval; n is the sample's size.",
                [tables.measures(evaluation)],
                when_empty="Not run.",
            ),
            Section(
                "What was changed in the model",
                "A factor scales a channel: 1 leaves it untouched, 0 silences it.",
                [tables.channel_table(evaluation)],
                draw=_channels,
            ),
            Section(
                "Time and data",
                "How long the request took and how many training images it looked at.",
                [tables.timing(evaluation), tables.data_seen(evaluation)],
            ),
        ]
    sections.append(Section("Provenance", "", [tables.provenance(evaluation)]))
    return [section for section in sections if any(section.tables) or section.details or section.when_empty]


def _drawn(caption: str, svgs: list[str]) -> Drawn:
    return [(caption, svgs)] if svgs else []


def _accuracy(evaluation: dict[str, Any]) -> Drawn:
    many = len(evaluation["original"]["per_class"]) > tables.MOST_CLASSES
    which = "every class"
    if many:
        first = (
            "the forgotten classes and those that changed most" if evaluation.get("unlearned") else "the lowest classes"
        )
        which = f"{first}, then all retained classes in order"
    matrices = [key for key in ("original", "unlearned") if (evaluation.get(key) or {}).get("confusion")]
    return [
        (f"Accuracy on unseen images: {which}.", [figures.per_class(evaluation)]),
        *_drawn(
            "Which answers the test images of each class get; the more solid, the larger the share of the class.",
            [figures.confusion(evaluation, key) for key in matrices],
        ),
    ]


def _destinations(evaluation: dict[str, Any]) -> Drawn:
    drawn, number = figures.destinations(evaluation), len(evaluation["forget"])
    first = f" The first {len(drawn)} of {number} classes." if len(drawn) < number else ""
    return _drawn(f"Share of a forgotten class's test images by answer.{first}", drawn)


def _channels(evaluation: dict[str, Any]) -> Drawn:
    panels, left_out = figures.channels(evaluation)
    rest = f" {left_out} more layers are in the table only." if left_out else ""
    caption = (
        "How much more each channel answers to the forgotten class. Orange: turned down, the more solid the further."
    )
    return _drawn(caption + rest, panels)


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
        return f"<tr>{''.join(f'<{tag}{which}>{escape(cell)}</{tag}>' for cell, which in marked)}</tr>"

    body = "\n".join(line(row, "td") for row in rows[1:])
    return f"<div class=scroll><table>\n<thead>{line(rows[0], 'th')}</thead>\n<tbody>\n{body}\n</tbody></table></div>"
