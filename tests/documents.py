"""Reads the documents: their fenced blocks, their links, and their words as a reader sees them."""

import ast
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for path in ROOT.glob("docs/**/*.md") if "generated" not in path.relative_to(ROOT).parts)
DOCUMENTS = sorted([*ROOT.glob("*.md"), *PAGES, *ROOT.glob("results/**/*.md")])


class Block(NamedTuple):
    language: str
    text: str


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a document, in order."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [Block(*each) for each in found]


def words(text: str) -> int:
    """How many words a reader sees: code and tables count, comments, rules of tables and addresses of links do not."""
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return sum(any(letter.isalnum() for letter in word) for word in text.split())


def links(path: Path) -> list[str]:
    """The relative targets of links and pictures outside fenced blocks, with their anchors."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^()\s]+)\)", re.sub(r"`[^`\n]*`", "", text))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a document."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found: dict[str, int] = {}
    for heading in re.findall(r"^#+ +(.+?)\s*$", text, flags=re.MULTILINE):
        heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", heading).replace(" ", "-")
        found[name] = found.get(name, -1) + 1
    return {name if number == 0 else f"{name}-{number}" for name, last in found.items() for number in range(last + 1)}


class Command(NamedTuple):
    module: str  # experiments.unlearn
    flags: list[str]  # workdir, config.data.exclude


def commands(path: Path) -> list[Command]:
    """The commands `python -m ...` and `osp-jax ...` that a document shows, in blocks and between backticks."""
    text = re.sub(r"\\\n\s*", " ", path.read_text(encoding="utf-8"))
    text = re.sub(r"\bosp-jax ([a-z]+(?:-[a-z]+)*)", lambda match: _as_module(match[1]), text)
    found = re.findall(r"python -m ((?:experiments|benchmarks)\.\w+)([^`\n]*)", text)
    return [Command(module, re.findall(r"(?<=\s)\[?--(?!help\b)([\w.]+)", rest)) for module, rest in found]


def _as_module(command: str) -> str:
    return f"python -m experiments.{command.replace('-', '_')}"


def python_block(path: Path, word: str) -> str:
    """The one Python block of a document in which `word` stands."""
    (found,) = [block.text for block in blocks(path) if block.language == "python" and word in block.text]
    return found


def messages(path: Path) -> list[str]:
    """The messages in the tables of a document whose first column is called Message."""
    tables = re.findall(r"^\| Message \|.*\n\|[-| :]+\n((?:\|.*\n)*)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.match(r"\| `(.*?)` \|", row).group(1) for table in tables for row in table.splitlines()]


def texts_in_code(folder: Path) -> list[str]:
    """Every text in the Python files of a folder; of an f-string, what stands between its values."""
    found = []
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found
