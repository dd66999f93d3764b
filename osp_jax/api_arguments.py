"""Checks the arguments of the public functions, and turns what users write into what the library takes.

All of them raise `InputError`, in one line that names the argument and the remedy.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from osp_jax.data.augment import Preparation
from osp_jax.data.given import split_of
from osp_jax.data.sources import Split
from osp_jax.data.splits import check_forget
from osp_jax.harm import check_limits
from osp_jax.interop.checks import check_logits
from osp_jax.methods import Method, get_method
from osp_jax.methods.parts.door import check_same_classes
from osp_jax.model import Model
from osp_jax.prepared.classes import Prepared
from osp_jax.runtime.errors import InputError, shown, unknown
from osp_jax.runtime.settings import MOST_SEED
from osp_jax.statistics import Statistics


def _check_method(method: Any) -> None:
    if isinstance(method, type) and issubclass(method, Method):
        raise InputError(f"method is the class {method.__name__}; give an instance, {method.__name__}()")
    if not isinstance(method, Method):
        raise InputError(f"method is {shown(method)}; give a name, such as 'osp-fit', or OspFit(margin=2.0)")


def method_of(method: Any) -> Method:
    """The method that a name or an instance stands for."""
    method = get_method(method)() if isinstance(method, str) else method
    _check_method(method)
    return method


def check_same_request(prepared: Any, settings: Mapping[str, Any]) -> None:
    """Raises `InputError` if `prepared` was made with other settings than those of the request."""
    if not isinstance(prepared, Prepared):
        raise InputError(f"prepared is {shown(prepared)}; give what osp_jax.prepare returns")
    for name, value in settings.items():
        if prepared.settings[name] != value:
            raise InputError(
                f"the requests were prepared with {name} {shown(prepared.settings[name])}, and this one has "
                f"{shown(value)}; use the same value, prepare again, or leave prepared out"
            )


def check_request(
    seed: Any, accept: Any, max_retained_drop: Any, max_forgotten: Any, retain_per_class: Any, forget_per_class: Any
) -> None:
    """Raises `InputError` for a seed, a limit or a budget that cannot be."""
    check_whole("seed", seed, 0, MOST_SEED)
    if not isinstance(accept, bool):
        raise InputError(f"accept is {shown(accept)}; give True or False")
    check_limits(max_retained_drop, max_forgotten)
    for name, value in (("retain_per_class", retain_per_class), ("forget_per_class", forget_per_class)):
        if value is not None:
            check_whole(name, value, 0)


def check_whole(name: str, value: Any, least: int, most: int = 10**9) -> None:
    """Raises `InputError` unless `value`, the argument `name`, is an integer from `least` to `most`."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not least <= value <= most:
        raise InputError(f"{name} is {shown(value)}; give an integer from {least} to {most}")


def check_statistics(model: Model, statistics: Any, forget: Sequence[int]) -> None:
    """Raises `InputError` unless the statistics are of this model's classes and hold images to forget and of others."""
    if not isinstance(statistics, Statistics):
        raise InputError(f"statistics are {shown(type(statistics).__name__)}; give what collect_statistics returns")
    check_same_classes(model, statistics)
    seen = set(statistics.classes_seen().tolist())
    if missing := sorted(set(forget) - seen):
        name = model.class_names[missing[0]]
        raise InputError(f"the statistics hold no example of class {name} ({missing[0]}); collect them with some of it")
    if not seen - {*forget, *model.forgotten}:
        raise InputError("the statistics hold no example of the other classes; collect them with some of all")


def check_fits(model: Model, split: Split) -> None:
    """Raises `InputError` if the network cannot take the images, or does not have one logit per class."""
    check_logits(model, split.images.shape[1:])


def class_numbers(forget: Any, model: Model) -> tuple[int, ...]:
    """The numbers of the classes to forget, in order, from names or numbers."""
    numbers = numbers_of(forget, model)
    check_forget(numbers, model.num_classes, model.forgotten, model.class_names)
    return tuple(sorted({int(number) for number in numbers}))


def numbers_of(forget: Any, model: Model) -> list[Any]:
    """Numbers of classes from names or numbers, one or several; numbers are not checked."""
    if isinstance(forget, str | int | np.integer):
        forget = [forget]
    if not isinstance(forget, Sequence | set | frozenset | np.ndarray):
        raise InputError(f"forget is {shown(forget)}; give names or numbers of classes, such as ['cat'] or [3]")
    numbers = []
    for word in forget:
        if isinstance(word, str) and word not in model.class_names:
            raise unknown("class", word, model.class_names)
        numbers.append(model.class_names.index(word) if isinstance(word, str) else word)
    return numbers


def given_preparation(model: Model, pad: Any, flip: Any, cutout: Any, pad_mode: Any) -> Preparation:
    """The normalisation of the model, with the augmentation of the arguments."""
    for name, value in (("pad", pad), ("cutout", cutout)):
        check_whole(name, value, 0, 16384)
    if not isinstance(flip, bool):
        raise InputError(f"flip is {shown(flip)}; give True or False")
    if pad_mode not in ("reflect", "zeros"):
        raise unknown("pad_mode", pad_mode, ("reflect", "zeros"))
    return Preparation(model.mean, model.std, pad, flip, cutout, pad_mode)


def split_of_data(model: Model, data: Any) -> Split | None:
    """The images and labels of the argument `data`, which the network can take."""
    if data is None:
        return None
    if not isinstance(data, Sequence) or len(data) != 2:
        raise InputError("data must be (images, labels), uint8 (n, h, w, c) and int (n,)")
    images, labels = data
    split = split_of(images, labels, model.num_classes)
    check_fits(model, split)
    return split
