"""Writes a page for each method into docs/generated/methods, from its class, its docstring and the results."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from repository_pages import GENERATED, RESULTS, write

from benchmarks.brought import table as brought
from osp_jax.methods import METHODS
from osp_jax.methods.parts.options import describe_options
from osp_jax.report.comparison_tables import YARDSTICK
from osp_jax.report.formats import NOTHING
from osp_jax.report.method_facts import MethodFacts, all_methods
from osp_jax.report.ranking import HEADER, ranked_rows
from osp_jax.report.tables import markdown_table
from osp_jax.runtime.workdir import read_json

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_IMAGES = {
    "none": "none: the class statistics suffice",
    "retained": "of the classes that stay",
    "forgotten": "of the classes to forget",
    "both": "of the classes that stay and of those to forget",
}
_LEFT_OUT = {"Average gap", "Cold", "Prepared", "Images"}
_MEANING = (
    "From the [committed results](../results/README.md). [Results](../../results.md#what-the-columns-mean) explains "
    "the columns."
)


def method_page(facts: MethodFacts) -> str:
    """The page in Markdown."""
    about = {
        "Training images that a request reads": _IMAGES[facts.images],
        "Gradient steps": "yes" if facts.descends else "no",
        "Papers": ", ".join(f"arXiv {number}" for number in facts.papers),
        "Differs from its paper": facts.deviation if facts.papers else "",
        "Source": "" if facts.papers else facts.deviation,
    }
    parts = [
        f"# {facts.name}",
        _inline(facts.title),
        "\n".join(f"- **{what}:** {_inline(value)}" for what, value in about.items() if value),
    ]
    if facts.details:
        parts += ["## How it works", as_markdown(facts.details)]
    parts += ["## Settings", *_settings(facts)]
    if figures := list(_figures(facts.name)):
        parts += ["## Figures", _MEANING, *figures]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def as_markdown(text: str) -> str:
    """A docstring as Markdown: paragraphs on one line, equations as code, with links to papers and repositories."""
    return "\n\n".join(_paragraph(part) for part in re.split(r"\n\n+", text))


def _paragraph(text: str) -> str:
    lines = text.splitlines()
    if all(line.startswith("    ") for line in lines):
        return "\n".join(["```text", *(line[4:] for line in lines), "```"])
    if any(line.startswith("- ") for line in lines):
        return "\n".join(_inline(line) for line in lines)
    return _inline(" ".join(line.strip() for line in lines))


def _inline(text: str) -> str:
    """With links, and without marks of emphasis, outside of code."""
    pieces = re.split(r"(`[^`]*`)", text)
    for number in range(0, len(pieces), 2):
        piece = re.sub(r"([*_\[\]<>|])", r"\\\1", pieces[number])
        piece = re.sub(r"arXiv\s(\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", piece)
        pieces[number] = re.sub(r"github\.com/[\w./\\-]*[\w-]", _repository, piece)
    return "".join(pieces)


def _repository(match: re.Match) -> str:
    return f"[{match.group()}](https://{match.group()})".replace("\\", "")


def _settings(facts: MethodFacts) -> Iterator[str]:
    """What sets them, and a definition for each."""
    kind = METHODS[facts.name]
    options = describe_options(kind)
    if not options:
        yield "It has none."
        return
    if facts.note:
        yield as_markdown(facts.note)
    first = options[0]
    yield (
        f"On the command line: `--method={facts.name} --option={first.name}={first.default}`. "
        f"In Python: `{kind.__module__}.{kind.__name__}({first.name}={first.default!r})`."
    )
    for option in options:
        lines = [_inline(option.meaning)] if option.meaning else []
        lines += [f"Source of the default: {_inline(option.source)}"] if option.source else []
        if tried := kind.search.get(option.name):
            lines.append(f"Tried in comparisons: {', '.join(f'`{value}`' for value in tried)}")
        term = f"`{option.name}` ({_inline(option.values)}; default `{option.default!r}`)"
        yield "\n".join([term, ": " + "\n\n  ".join(_sentence(line) for line in lines)])


def _sentence(text: str) -> str:
    """With a capital and a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _figures(name: str) -> Iterator[str]:
    """A table for each file of results that has the method, each with a line before it."""
    for path in sorted(RESULTS.glob("benchmark/*/results.json")):
        results = read_json(path)
        cells = [cell for cell in results["cells"] if cell["method"] in ("original", YARDSTICK, name)]
        if any(cell["method"] == name and cell["kind"] == "single" for cell in cells):
            rows = [dict(zip(HEADER, row, strict=True)) for row in ranked_rows({**results, "cells": cells}, {})]
            header = [
                title for title in HEADER if title not in _LEFT_OUT and any(row[title] != NOTHING for row in rows)
            ]
            place = path.parent.relative_to(RESULTS)
            network = f"{results['dataset']['variant']}, {results['model']['name']}"
            yield f"{network} ([all methods](../results/{place}/table.md)):"
            yield markdown_table(header, [[row[title] for title in header] for row in rows])
    found = [row for row in read_json(RESULTS / "brought" / "results.json")["rows"] if row["method"] == name]
    if found:
        yield "CIFAR-10, networks of other people, default settings ([all methods](../results/brought/table.md)):"
        header = [title for title in brought.HEADER if title != "Method"]
        yield markdown_table(header, [[network, *figures] for network, _, *figures in brought.rows(found)])


def _write_pages(app: "Sphinx") -> None:
    del app
    for facts in all_methods():
        write(GENERATED / "methods" / f"{facts.name}.md", method_page(facts))


def _link_names(app: "Sphinx", docname: str, source: list[str]) -> None:
    """In the table of methods, each name leads to its page."""
    del app
    if docname == "methods":
        name = "|".join(map(re.escape, METHODS))
        source[0] = re.sub(rf"^\| ({name}) \|", r"| [\1](generated/methods/\1.md) |", source[0], flags=re.MULTILINE)


def setup(app: "Sphinx") -> dict[str, Any]:
    app.connect("builder-inited", _write_pages)
    app.connect("source-read", _link_names)
    return {"parallel_read_safe": True}
