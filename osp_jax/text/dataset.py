"""A file of texts as a `Dataset`: stripped, split, and converted to token ids."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from osp_jax.data.class_names import check_class_names
from osp_jax.data.dataset import Dataset, Split
from osp_jax.data.splits import cut_test
from osp_jax.runtime.errors import InputError, printable, shown
from osp_jax.text.files import TEST, TRAIN, VALIDATION, WHOLE, Text, read_texts
from osp_jax.text.tokenizer import encode, train_tokenizer


def load_texts(path: Path, title: str, settings: Mapping[str, Any], tokenizer: str = "") -> Dataset:
    """Loads the texts of the file `path`: token ids uint16 `(n, length)`; classes sorted by name, or by number.

    Texts without splits are split: the share `test` of each class, or `validation` if `test` is 0, becomes the test
    split, the same in every run. Equal texts stay on one side, whatever their labels.

    Args:
      title: name of the data in records and reports.
      settings: `test`, `validation`, `strip`, `vocabulary` and `length` of `config.data`.
      tokenizer: JSON; empty: one is trained on the training split.

    Raises:
      InputError: as `read_texts`; only some texts have a split, a class is missing in a split, or there is no test
        split while `test` and `validation` are 0.
    """
    found, length = divided_texts(path, settings), settings["length"]
    tokenizer = tokenizer or train_tokenizer([found.contents[i] for i in found.train], settings["vocabulary"])
    ids, names = encode(tokenizer, found.contents, length), found.class_names
    splits = (Split(ids[chosen], found.labels[chosen]) for chosen in (found.train, found.test))
    stripped = ", headers, footers and quotes stripped" if settings["strip"] else ""
    variant = f"{title.partition(':')[2]} (text, {length} tokens, {len(names)} classes{stripped})"
    return Dataset(title, variant, names, *splits, test_held_out=found.held_out, tokenizer=tokenizer)


class DividedTexts(NamedTuple):
    """The texts of a file, stripped; labels int32 `(n,)`; training and test indices; `held_out` as in `Dataset`."""

    contents: list[str]
    labels: np.ndarray
    class_names: tuple[str, ...]
    train: np.ndarray
    test: np.ndarray
    held_out: bool


def divided_texts(path: Path, settings: Mapping[str, Any]) -> DividedTexts:
    """The texts of `load_texts` before tokenization; arguments and errors as there."""
    _check_settings(settings)
    texts = read_texts(path)
    names, labels = _classes(path, texts)
    clean = _STRIPPED[settings["strip"]]
    contents = [clean(text.text) for text in texts]
    train, test, held_out = _divided(path, texts, contents, labels, names, settings)
    for part, chosen in (("training", train), ("test", test)):
        if len(missing := np.setdiff1d(np.arange(len(names)), labels[chosen])):
            raise InputError(f"{path}: no {part} text is of the class {shown(names[missing[0]])}; add some, or drop it")
    return DividedTexts(contents, labels, names, train, test, held_out)


def _check_settings(settings: Mapping[str, Any]) -> None:
    if given := [name for name in ("image_size", "channels", "stream") if settings[name]]:
        raise InputError(f"data.{given[0]} is {settings[given[0]]} and the data are texts; leave it out")


def _classes(path: Path, texts: Sequence[Text]) -> tuple[tuple[str, ...], np.ndarray]:
    """(names of the classes, label of each text, int32)."""
    found = sorted({text.label for text in texts}, key=lambda label: (isinstance(label, str), label))
    names = tuple(map(str, found))
    try:
        check_class_names(names)
    except ValueError as error:
        raise InputError(f"{path}: {error}; give each class a label that can be printed") from error
    if len(names) < 2:
        raise InputError(f"{path}: all texts are of one class, {shown(names[0])}; give texts of two classes or more")
    number = {label: place for place, label in enumerate(found)}
    return names, np.array([number[text.label] for text in texts], np.int32)


def _divided(
    path: Path,
    texts: Sequence[Text],
    contents: Sequence[str],
    labels: np.ndarray,
    names: tuple[str, ...],
    settings: Mapping[str, Any],
) -> tuple[np.ndarray, np.ndarray, bool]:
    """(training indices, test indices, whether `data.validation` became the test split)."""
    sides = {
        side: np.flatnonzero([text.split in words for text in texts])
        for side, words in (("train", TRAIN), ("test", TEST), ("validation", VALIDATION), ("whole", WHOLE))
    }
    if len(sides["whole"]):
        if len(sides["whole"]) < len(texts):
            raise InputError(
                f"{path}: {len(sides['whole'])} of {len(texts)} texts have no split; give all of them one, or none"
            )
        first: dict[str, int] = {}
        alike = np.array([first.setdefault(content, place) for place, content in enumerate(contents)])
        share = settings["test"] or settings["validation"]
        train, test = cut_test(labels, share, str(path), names, alike)
        return train, test, not settings["test"]
    if settings["test"]:
        raise InputError(f"{path} has splits of its own, and data.test is {settings['test']}; leave it out")
    test = sides["test"] if len(sides["test"]) else sides["validation"]
    if len(sides["test"]) and len(sides["validation"]):
        _say(f"{printable(str(path))}: the {len(sides['validation'])} texts of the validation split are not used")
    if not len(sides["train"]) or not len(test):
        raise InputError(f"{path} has no {'test' if len(sides['train']) else 'training'} text; give both a split")
    return sides["train"], test, False


def _say(line: str) -> None:
    from osp_jax.runtime.distributed import is_first

    if is_first():
        print(line, file=sys.stderr)


def _without_headers_footers_quotes(text: str) -> str:
    """As `fetch_20newsgroups(remove=("headers", "footers", "quotes"))` of scikit-learn, by its own functions."""
    from sklearn.datasets import _twenty_newsgroups as newsgroups

    text = newsgroups.strip_newsgroup_header(text)
    text = newsgroups.strip_newsgroup_footer(text)
    return newsgroups.strip_newsgroup_quoting(text)


_STRIPPED: dict[str, Callable[[str], str]] = {"": str, "newsgroups": _without_headers_footers_quotes}
