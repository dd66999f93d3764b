"""A model under audit, and its outputs: logits, and the features of every stage."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np

from osp_jax.data.augment import Preparation, normalise
from osp_jax.data.batches import index_batches
from osp_jax.data.sources import Dataset, Split
from osp_jax.data.splits import per_class_sample
from osp_jax.forward import predict_logits
from osp_jax.model import Model
from osp_jax.program.gates import Gates, capture, gates_of, noise_images
from osp_jax.runtime.distributed import everywhere


class Subject(NamedTuple):
    """A trained network, and the normalisation and augmentation of its training."""

    model: Model
    preparation: Preparation


class Images(NamedTuple):
    """The images of an audit, shared by all models; indices int32 into the splits of `dataset`.

    `train` are the training images of the original. Parts are 'train_forget', 'train_retain', 'test_forget' and
    'test_retain', in random order.
    """

    dataset: Dataset
    forget: tuple[int, ...]
    train: np.ndarray
    parts: dict[str, np.ndarray]


class Look(NamedTuple):
    """Outputs for `n` images: float32 logits `(n, classes)`, labels `(n,)`, spatial means `(n, channels)` by stage."""

    logits: np.ndarray
    labels: np.ndarray
    features: dict[str, np.ndarray]


def images_of(dataset: Dataset, train: np.ndarray, forget: Sequence[int], most: int, seed: int) -> Images:
    """At most about `most` images per part, the same number of each class."""
    parts = {}
    for part, labels, chosen in whole_parts(dataset, train, forget):
        sample = per_class_sample(labels, chosen, most, seed) if len(chosen) else chosen
        parts[part] = sample[:most]
    return Images(dataset, tuple(forget), train, parts)


def whole_parts(
    dataset: Dataset, train: np.ndarray, forget: Sequence[int]
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(name, labels of the split, indices of all its images) of each part of `Images`."""
    for name, split, indices in (
        ("train", dataset.train, train),
        ("test", dataset.test, np.arange(len(dataset.test.labels), dtype=np.int32)),
    ):
        gone = np.isin(split.labels[indices], list(forget))
        yield f"{name}_forget", split.labels, indices[gone]
        yield f"{name}_retain", split.labels, indices[~gone]


def look(subject: Subject, images: Images, part: str) -> Look:
    """The outputs of a model for the images of a part."""
    return look_at(
        subject, images.dataset.train if part.startswith("train") else images.dataset.test, images.parts[part]
    )


def look_at(subject: Subject, split: Split, indices: np.ndarray, batch_size: int = 256) -> Look:
    """The outputs of a model for the images `indices` `(n,)` of a split."""
    model, moments = subject.model, subject.preparation.moments()
    forward = _forward(model.apply, stages_of(model, split.images.shape[1:]))
    found = [forward(model.variables, batch, *moments) for batch, _ in index_batches(split, indices, batch_size)]
    logits, features = jax.tree.map(lambda *parts: np.concatenate(list(map(np.asarray, parts)))[: len(indices)], *found)
    return Look(logits, split.labels[indices], features)


def stages_of(model: Model, image_shape: tuple[int, ...]) -> Gates:
    """The stages of a network: the channel groups of its program."""
    return gates_of(model.apply, model.variables, noise_images(tuple(image_shape)))


def recognised(model: Model, images: Images) -> np.ndarray:
    """Whether a model recognises each forgotten test image, bool `(n,)`; False for outputs that are not finite."""
    test, asked = images.dataset.test, images.parts["test_forget"]
    logits = predict_logits(model, test, asked, batch_size=min(500, len(asked)))
    return np.isfinite(logits).all(-1) & (logits.argmax(-1) == test.labels[asked])


@lru_cache(maxsize=8)
def _forward(apply: Callable[[Any, jax.Array], jax.Array], gates: Gates) -> Any:
    def forward(
        variables: Any, images: jax.Array, mean: jax.Array, std: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        logits, activations, _ = capture(apply, gates, variables, normalise(images, mean, std))
        pooled = {name: a.reshape(a.shape[0], -1, a.shape[-1]).mean(1) for name, a in activations.items()}
        return everywhere((logits, pooled))  # b (h w) c -> b c

    return jax.jit(forward)
