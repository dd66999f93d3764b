"""Texts and labels from a file: JSON lines or CSV, optionally compressed by xz or gzip."""

import csv
import gzip
import json
import lzma
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from osp_jax.data.paths import check_readable
from osp_jax.runtime.errors import InputError, shown
from osp_jax.runtime.system_errors import code_of

TRAIN = ("train", "training")
TEST = ("test", "testing")
VALIDATION = ("valid", "validation", "val", "dev")
WHOLE = ("", "all")
"""Values of `split` for a text without a split."""

_OPEN = {".xz": lzma.open, ".gz": gzip.open}
_DAMAGE = (lzma.LZMAError, gzip.BadGzipFile, EOFError, OSError, UnicodeDecodeError, csv.Error)
_LONGEST_FIELD = 10**8  # characters; the default of Python's csv is 131,072


class Text(NamedTuple):
    """A text, its label in the file, and its split; '' if the file has none."""

    text: str
    label: str | int
    split: str


def read_texts(path: Path) -> list[Text]:
    """The texts of `NAME.jsonl` or `NAME.csv`, or of either with the suffix `.xz` or `.gz`.

    A line of a jsonl file is an object with `text`, `label` and, if the file has splits, `split`; a csv file has these
    names in its first line. Other fields are ignored.

    Raises:
      InputError: the file has another type or is damaged, or a text lacks a field, or has one of another type.
    """
    suffixes = path.suffixes
    compressed = suffixes[-1] if suffixes and suffixes[-1] in _OPEN else ""
    kind = "".join(suffixes[-2:-1] if compressed else suffixes[-1:])
    if kind not in _ROWS:
        raise InputError(
            f"{path} is neither .jsonl nor .csv (.xz or .gz may follow); give a file of one of these kinds"
        )
    with _readable(path), _OPEN.get(compressed, open)(path, "rt", encoding="utf-8-sig", newline="") as file:
        found = [_text(row, number, path) for number, row in _ROWS[kind](file, path)]
    if not found:
        raise InputError(f"{path} holds no text; give some of two classes or more")
    return found


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    if not path.is_file():
        raise InputError(f"there is no file {path}; correct data.name, or give its new place as data.dir (--data_dir)")
    check_readable(path)
    try:
        yield
    except _DAMAGE as error:
        if code_of(error):
            raise
        raise InputError(f"{path} is damaged ({' '.join(str(error).split())[:160]}); restore it, as UTF-8") from error


def _json_rows(file: TextIO, path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path}, line {number}: no JSON ({str(error)[:80]}); correct the line") from error


def _csv_rows(file: TextIO, path: Path) -> Iterator[tuple[int, Any]]:
    before = csv.field_size_limit(min(_LONGEST_FIELD, sys.maxsize))
    try:
        rows = csv.DictReader(file)
        if missing := {"text", "label"} - set(rows.fieldnames or ()):
            names = ", ".join(map(str, rows.fieldnames or ())) or "nothing"
            raise InputError(
                f"{path} has no column {shown(max(missing))} (its first line names {names[:120]}); name the columns "
                "text and label, and split where there is one"
            )
        for row in rows:
            yield rows.line_num, row
    finally:
        csv.field_size_limit(before)


_ROWS = {".jsonl": _json_rows, ".csv": _csv_rows}


def _text(row: Any, number: int, path: Path) -> Text:
    where = f"{path}, line {number}"
    if not isinstance(row, dict):
        raise InputError(f"{where} is {shown(row)}; give an object with text and label")
    text, label, split = row.get("text"), row.get("label"), row.get("split") or ""
    if not isinstance(text, str):
        raise InputError(f"{where}: text is {shown(text)}; give each text as a string")
    if isinstance(label, bool) or not isinstance(label, str | int) or label == "":
        raise InputError(f"{where}: label is {shown(label)}; give the name or the number of a class")
    known = (*TRAIN, *TEST, *VALIDATION, *WHOLE)
    if not isinstance(split, str) or split.lower() not in known:
        raise InputError(f"{where}: split is {shown(split)}; give train, test or valid, or leave the field out")
    return Text(text, label, split.lower())
