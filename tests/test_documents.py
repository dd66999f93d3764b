"""The documents: links have targets, generated tables name their contents, and no path of one machine appears."""

import re
from functools import reduce
from operator import getitem
from pathlib import Path

import pytest

from configs.default import get_config
from experiments import tables
from osp_jax.runtime.workdir import read_json
from tests.documents import DOCUMENTS, ROOT, anchors, commands, links, messages, texts_in_code, words

MACHINE = re.compile(r"/(?:home|root|tmp|work|Users)/\w")


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_readme_has_fewer_than_900_words():
    assert words((ROOT / "README.md").read_text(encoding="utf-8")) < 900


def test_words_are_those_that_a_reader_sees():
    assert words("<!-- begin x -->\n| a | [b c](d/e.md) |\n| --- | ---: |\n`d e`\n- f\n") == 6


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_relative_link_leads_to_a_file_and_a_heading(document):
    for link in links(document):
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_no_document_names_a_path_of_one_machine(document):
    assert not MACHINE.findall(document.read_text(encoding="utf-8"))


def test_every_document_is_reached_from_the_readme_or_the_front_page():
    reached, new = set(), [ROOT / "README.md", ROOT / "docs" / "index.md"]
    while new:
        document = new.pop()
        reached.add(document)
        targets = [(document.parent / link.partition("#")[0]).resolve() for link in links(document)]
        new += [target for target in targets if target.suffix == ".md" and target not in reached]
    assert {named(path) for path in ROOT.glob("docs/*.md")} <= {named(path) for path in reached}


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_command_in_a_document_exists_and_has_its_flags(document):
    shared = (ROOT / "experiments" / "cli.py").read_text(encoding="utf-8")
    for module, flags in commands(document):
        place = ROOT / module.replace(".", "/")
        file = place / "__main__.py" if place.is_dir() else place.with_suffix(".py")
        text = file.read_text(encoding="utf-8") + shared
        for flag in flags if module.startswith("experiments.") else []:
            assert f'"{flag.partition(".")[0]}"' in text, (module, flag)
            if flag.startswith("config.") and not module.endswith("benchmark"):
                *sections, name = flag.removeprefix("config.").split(".")
                assert name in reduce(getitem, sections, get_config()), (module, flag)


def test_every_message_that_a_document_quotes_is_one_of_the_code():
    code = "\n".join(texts_in_code(ROOT / "osp_jax") + texts_in_code(ROOT / "experiments"))
    quoted = messages(ROOT / "docs" / "your_own_network.md")
    assert quoted
    pieces = [(message, piece.strip()) for message in quoted for piece in message.split("...")]
    assert [(message, piece) for message, piece in pieces if piece not in code] == []


def test_the_summary_of_brought_networks_has_the_worst_class_of_each():
    results = read_json(ROOT / "results" / "brought" / "results.json")
    lines = [line for line in tables.PARTS["brought_summary"]().splitlines() if "%" in line]
    assert len(lines) == len(results["networks"])
    for network, line in zip(results["networks"], lines, strict=True):
        rows = [row for row in results["rows"] if row["network"] == network and row["method"] == "osp-fit"]
        assert f"({max(100 * row['forgotten_after'] for row in rows):.2f}%)" in line
        assert f"({min(100 * (row['others_after'] - row['others_before']) for row in rows):+.2f})" in line
