"""Shows the pages outside docs/ on the site, and points the links of all pages at pages of the site.

Pages are written so that their links work in a clone. On the site, CONTRIBUTING.md, CHANGELOG.md, SECURITY.md, the
tables of results/ and the notebooks of examples/ are copied into docs/generated when it is built, the README is the
front page, a link to a folder of the repository becomes text, and one named after its file has the title of the page.
Pictures stay where they are: a copy refers to the picture beside its original.
"""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx


DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
RESULTS = ROOT / "results"
GENERATED = DOCS / "generated"
_LINK = re.compile(r"\[([^\]\n]*)\]\(([^()\s#:]+)(#[^()\s]*)?\)")
_CODE = re.compile(r"^```.*?^```$|`[^`\n]+`(?!\])", flags=re.MULTILINE | re.DOTALL)


def copies() -> dict[Path, Path]:
    """By the path of each file that is shown: the path of its copy."""
    shown = [ROOT / f"{name}.md" for name in ("CONTRIBUTING", "CHANGELOG", "SECURITY")]
    shown += [*sorted(RESULTS.rglob("*.md")), *sorted((ROOT / "examples").glob("*.ipynb"))]
    return {path: GENERATED / path.relative_to(ROOT) for path in shown}


def with_site_links(text: str, origin: Path, page: Path) -> str:
    """Markdown whose relative links are those of the file `origin`, with links for the file `page`."""
    places = {**copies(), ROOT / "README.md": DOCS / "index.md"}

    def linked(match: re.Match) -> str:
        words, target, anchor = match.group(1), match.group(2), match.group(3) or ""
        path = Path(os.path.normpath(origin.parent / target))
        if path.is_dir():
            return words
        place, words = places.get(path, path), "" if words == path.name else words  # the title of the page then
        return f"[{words}]({os.path.relpath(place, page.parent)}{anchor})" if path.exists() else match.group()

    parts, end = [], 0
    for code in _CODE.finditer(text):
        parts += [_LINK.sub(linked, text[end : code.start()]), code.group()]
        end = code.end()
    return "".join([*parts, _LINK.sub(linked, text[end:])])


def write(page: Path, text: str) -> None:
    """Writes a generated page where it has changed, so that Sphinx reads again only what did."""
    if not page.exists() or page.read_text(encoding="utf-8") != text:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(text, encoding="utf-8")


def _write_copies(app: "Sphinx") -> None:
    del app
    for stale in {*(GENERATED / RESULTS.name).rglob("*.md")} - {*copies().values()}:
        stale.unlink()  # the copy of a table that is gone
    for path, page in copies().items():
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".md":
            text = with_site_links(text, path, page)
            if not text.startswith("# "):
                text = f"# {path.relative_to(ROOT).with_suffix('')}\n\n{text}"
        write(page, text + _contents() if path == RESULTS / "README.md" else text)


def _contents() -> str:
    """The tables of results/ as a table of contents, by their folder."""
    tables = [path.relative_to(RESULTS).with_suffix("") for path in copies() if RESULTS in path.parents]
    lines = [f"{str(table).removesuffix('/table')} <{table}>" for table in tables if table.name != "README"]
    return "\n".join(["\n```{toctree}", ":hidden:", "", *lines, "```\n"])


def _rewrite(app: "Sphinx", docname: str, source: list[str]) -> None:
    page = Path(app.env.doc2path(docname))
    if page.suffix == ".md" and not page.is_relative_to(GENERATED):
        source[0] = with_site_links(source[0], page, page)


def setup(app: "Sphinx") -> dict[str, Any]:
    app.connect("builder-inited", _write_copies)
    app.connect("source-read", _rewrite)
    return {"parallel_read_safe": True}
