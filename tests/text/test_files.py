"""Texts and labels from jsonl and csv files."""

import csv
import gzip
import json
import lzma

import pytest

from osp_jax.runtime.errors import InputError
from osp_jax.text.files import Text, read_texts

ROWS = [{"text": 'a "quoted", text\nof two lines', "label": "x", "split": "train"}, {"text": "ß", "label": "y"}]
TEXTS = [Text(ROWS[0]["text"], "x", "train"), Text("ß", "y", "")]


def jsonl(path, opener=open):
    with opener(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in ROWS)
    return path


def test_jsonl_is_read_as_it_is_and_compressed(tmp_path):
    assert read_texts(jsonl(tmp_path / "a.jsonl")) == TEXTS
    assert read_texts(jsonl(tmp_path / "a.jsonl.xz", lzma.open)) == TEXTS
    assert read_texts(jsonl(tmp_path / "a.jsonl.gz", gzip.open)) == TEXTS


def test_csv_gives_what_jsonl_gives(tmp_path):
    with (tmp_path / "a.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ("label", "split", "text", "unused"))
        writer.writeheader()
        writer.writerows(ROWS)
    assert read_texts(tmp_path / "a.csv") == TEXTS


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: no JSON"),
        ("3", "line 1 is 3; give an object"),
        ('{"label": "x"}', "line 1: text is None; give each text as a string"),
        ('{"text": "a", "label": true}', "line 1: label is True"),
        ('{"text": "a", "label": "x", "split": "half"}', "line 1: split is 'half'"),
        ("", "holds no text"),
    ],
)
def test_a_line_that_is_no_text_is_named(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text(line + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_texts(tmp_path / "a.jsonl")


def test_files_of_other_kinds_and_damaged_ones_are_refused_in_one_line(tmp_path):
    (tmp_path / "a.txt").write_text("x", encoding="utf-8")
    (tmp_path / "a.csv").write_text("one,two\n1,2\n", encoding="utf-8")
    (tmp_path / "a.jsonl").write_bytes(b"\xff\xfe{}")
    (tmp_path / "a.jsonl.xz").write_bytes(jsonl(tmp_path / "b.jsonl.xz", lzma.open).read_bytes()[:-20])
    for name, message in (
        ("a.txt", "neither .jsonl nor .csv"),
        ("a.csv", "no column 'text' .its first line names one, two"),
        ("a.jsonl", "is damaged"),
        ("a.jsonl.xz", "is damaged"),
        ("none.jsonl", "there is no file"),
    ):
        with pytest.raises(InputError, match=message) as raised:
            read_texts(tmp_path / name)
        assert "\n" not in str(raised.value)
