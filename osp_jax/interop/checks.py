"""Input checks shared by all adapters."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.data.kinds import is_text
from osp_jax.model import Model
from osp_jax.runtime.errors import InputError, shown


def checked_moments(mean: Sequence[float], std: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) as tuples of floats. Raises `InputError` for values that cannot normalise images."""
    moments = []
    for name, values in (("mean", mean), ("std", std)):
        try:
            moments.append(tuple(float(value) for value in np.atleast_1d(np.asarray(values, float))))
        except (TypeError, ValueError) as error:
            raise InputError(f"{name} is {shown(values)}; give a number for each image channel") from error
    if len(moments[0]) != len(moments[1]):
        raise InputError(f"mean has {len(moments[0])} values and std {len(moments[1])}; give one for each channel")
    if not np.isfinite(moments).all() or min(moments[1], default=1) <= 0:
        raise InputError("mean must be finite and std above 0, on the 0..1 scale of the images")
    return tuple(moments)


def checked_classes(names: Sequence[str]) -> tuple[str, ...]:
    """The names as a tuple. Raises `InputError` for fewer than two names, or duplicates."""
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise InputError(f"class_names are {shown(names)}; give a list of texts, one for each class")
    names = tuple(names)
    if len(names) < 2 or len(set(names)) < len(names):
        raise InputError("class_names must be two or more different texts, one for each logit")
    return names


def check_logits(model: Model, image_shape: Sequence[int]) -> None:
    """Raises `InputError` if a network cannot take images `(h, w, c)`, or does not have one logit per class."""
    shape = tuple(image_shape)
    if len(model.mean) not in ((0,) if is_text(shape) else (1, shape[-1])):
        raise InputError(
            f"the images have {shape[-1]} channels and the model's mean {len(model.mean)}; give images of its kind"
        )
    inputs = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    try:
        logits = jax.eval_shape(model.apply, model.variables, inputs)
    except Exception as error:  # user code may raise anything for inputs that it does not support
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"the network cannot be applied to images of shape {shape} ({reason}); give images as in its training, and "
            "variables of this network"
        ) from error
    wanted = (2, model.num_classes)
    if getattr(logits, "shape", None) != wanted:
        raise InputError(
            f"the network gives {shown(getattr(logits, 'shape', logits))} for 2 images and there are "
            f"{model.num_classes} class names; it must give {wanted}, a logit for each class"
        )
