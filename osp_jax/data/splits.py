"""Retained, forgotten and validation images as index arrays; nothing is copied."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from osp_jax.data.kinds import is_text
from osp_jax.runtime.errors import InputError, shown


def parse_classes(text: str, class_names: Sequence[str]) -> tuple[int, ...]:
    """Class numbers from '3,5', 'cat,dog' or a mixture; sorted, without duplicates.

    A word that is both a name and a number is a name, so that classes called '0', '1', ... work.

    Raises:
      InputError: a word is neither.
    """
    classes = set()
    for word in (w.strip() for w in text.split(",")):
        if word in class_names:
            classes.add(list(class_names).index(word))
        elif word.isdecimal() and len(word) < 20 and int(word) < len(class_names):  # int() limits the number of digits
            classes.add(int(word))
        elif word:
            some = ", ".join(class_names[:12]) + (", ..." if len(class_names) > 12 else "")
            raise InputError(
                f"unknown class {word!r}; choose numbers from 0 to {len(class_names) - 1} or names: {some}"
            )
    return tuple(sorted(classes))


def classes_in_turn(text: str, class_names: Sequence[str], gone: Sequence[int]) -> tuple[int, ...]:
    """Classes to forget separately, as `parse_classes` reads them; 'all' stands for all but the forgotten ones `gone`.

    Raises:
      InputError: there is no class, or one that cannot be forgotten.
    """
    known = tuple(number for number in range(len(class_names)) if number not in gone)
    classes = known if text == "all" and "all" not in class_names else parse_classes(text, class_names)
    check_in_turn(classes, len(class_names), gone, class_names)
    return classes


def check_forget(
    forget: Sequence[int], num_classes: int, gone: Sequence[int] = (), class_names: Sequence[str] = ()
) -> None:
    """Raises `InputError` unless `forget` names known classes that are not yet forgotten, and others remain.

    Args:
      gone: already forgotten classes.
      class_names: for the message; empty: the numbers.
    """
    if not len(forget):
        raise InputError("no class to forget; name at least one, for example --forget=3 or --forget=3,5")
    if unknown := [c for c in forget if isinstance(c, bool) or not isinstance(c, int | np.integer)]:
        raise InputError(f"{shown(unknown[0])} is no class number; give integers from 0 to {num_classes - 1}")
    if unknown := [c for c in forget if not 0 <= c < num_classes]:
        raise InputError(f"there is no class {shown(int(unknown[0]))}; give numbers from 0 to {num_classes - 1}")
    if again := sorted(set(forget) & set(gone)):
        name = f"{class_names[again[0]]} ({again[0]})" if class_names else again[0]
        raise InputError(
            f"class {name} is forgotten already, or was left out of the training; name classes that the model knows"
        )
    if len({*forget, *gone}) >= num_classes:
        raise InputError(f"all {num_classes} classes would be forgotten; leave at least one")


def check_in_turn(classes: Sequence[int], num_classes: int, gone: Sequence[int], class_names: Sequence[str]) -> None:
    """Like `check_forget`, for separate requests, one for each of `classes`."""
    for forget in [(number,) for number in classes] or [()]:
        check_forget(forget, num_classes, gone, class_names)


def split_by_class(labels: np.ndarray, forget: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(retain, forget) indices into `labels`, int32, in order."""
    forgotten = np.isin(labels, list(forget))
    return np.flatnonzero(~forgotten).astype(np.int32), np.flatnonzero(forgotten).astype(np.int32)


def without_classes(labels: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Indices into `labels` of all that are none of `classes`, int32, in order."""
    return split_by_class(labels, classes)[0]


def first_alike(inputs: Any) -> np.ndarray:
    """The index of the first input that is identical for a network, by image or text, int `(n,)`.

    Duplicate texts `(n, length)` are found; images always count as different.
    """
    if not is_text(inputs.shape[1:]):
        return np.arange(len(inputs))
    _, first, group = np.unique(inputs, axis=0, return_index=True, return_inverse=True)
    return first[group.reshape(-1)]


def hold_out(
    labels: np.ndarray, fraction: float, seed: int, alike: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(train, validation) indices, int32: `fraction` of each class, drawn by `seed`, is held out.

    Args:
      alike: as `first_alike` returns it; identical inputs stay on one side, drawn once with the class of the first.
    """
    if not 0 <= fraction < 1:
        raise InputError(f"data.validation is {fraction}; give a fraction of the training set from 0 to below 1")
    rng = np.random.default_rng(seed)
    chosen = [
        rng.permutation(members)[: round(fraction * len(members))]
        for members in (np.flatnonzero((labels == c) & _is_first(labels, alike)) for c in np.unique(labels))
    ]
    return _sides(np.concatenate(chosen), labels, alike)


def _is_first(labels: np.ndarray, alike: np.ndarray | None) -> np.ndarray:
    numbers = np.arange(len(labels))
    return np.ones(len(labels), bool) if alike is None else alike == numbers


def _sides(chosen: np.ndarray, labels: np.ndarray, alike: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """(the others, `chosen` with its duplicates), int32 and sorted."""
    numbers = np.arange(len(labels), dtype=np.int32)
    out = np.isin(numbers if alike is None else alike, chosen)
    return numbers[~out], numbers[out]


def cut_test(
    labels: np.ndarray,
    fraction: float,
    where: str,
    class_names: Sequence[str],
    alike: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(train, test) indices, int32, of data without a test split: `fraction` of each class, at least one image.

    The split does not depend on the seed of a config, so that figures of several trainings are comparable.

    Args:
      where: the location of the images, for the message.
      alike: as in `hold_out`.

    Raises:
      InputError: `fraction` is 0, or a class has a single image.
    """
    if not fraction:
        raise InputError(
            f"{where} has no test images; set data.validation to the share of each class to test on, as in "
            "--config.data.validation=0.2 (import_model: --validation=0.2)"
        )
    rng, chosen = np.random.default_rng(0), []
    for number, name in enumerate(class_names):
        members = np.flatnonzero((labels == number) & _is_first(labels, alike))
        if len(members) < 2:
            raise InputError(
                f"{where}: class {shown(name)} has {len(members)} image, which cannot be split; add images of it"
            )
        most = len(members) - 1
        chosen.append(rng.permutation(members)[: min(max(round(fraction * len(members)), 1), most)])
    return _sides(np.concatenate(chosen), labels, alike)


def per_class_sample(labels: np.ndarray, candidates: np.ndarray, total: int, seed: int) -> np.ndarray:
    """About `total` of `candidates`, the same number of each class, int32, in random order drawn by `seed`."""
    rng = np.random.default_rng(seed)
    classes = np.unique(labels[candidates])
    each = -(-total // len(classes))
    chosen = [rng.permutation(candidates[labels[candidates] == c])[:each] for c in classes]
    return rng.permutation(np.concatenate(chosen)).astype(np.int32)
