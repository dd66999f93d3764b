"""Boundary shrink: learns each forgotten image as the nearest other class.

Chen, Gao, Liu, Peng and Wang, "Boundary Unlearning: Rapid Forgetting of Deep Networks via Shifting the Decision
Boundary", CVPR 2023, arXiv 2303.11570. Each image moves one step along the sign of the gradient that raises its loss
under the original; the class that the original predicts there is its new label. The network is fine-tuned on the
unmoved images with the new labels.

Defaults are those of the authors' code (as in github.com/TY-LEE-KR/Boundary-Unlearning-Code, AllCNN on CIFAR-10). The
labels do not change during training, so they are computed once. Choices:

- `labels`: the paper takes the nearest incorrect class; the code takes the predicted class of the moved image, which is
  the old class if the step is too short to leave it. 'any' is the code, 'retained' the most likely retained class.
- `bound` is on the 0..1 scale of pixels. The code inverts a normalisation that differs from that of its data (standard
  deviations near 0.2, not 0.5), so its 0.1 moves images by about 0.25.
- `train`: in train mode on forgotten images alone, the running statistics of batch norms move to those images at any
  learning rate, as in the code. With False (ours) they stay.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.data.augment import Preparation
from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.groups import forget_vector
from osp_jax.methods.parts.method import Method
from osp_jax.methods.parts.options import option
from osp_jax.methods.parts.targets import label_loss
from osp_jax.model import Model
from osp_jax.program.gates import Gates
from osp_jax.runtime.distributed import everywhere
from osp_jax.runtime.errors import InputError
from osp_jax.statistics import Statistics
from osp_jax.training.descent import Optimiser, batch_of, descend, epoch_batches, in_eval_mode, in_train_mode
from osp_jax.training.loss import cross_entropy

LABELS = ("any", "retained")


@dataclasses.dataclass(frozen=True)
class BoundaryShrink(Method):
    """Learns each forgotten image as the nearest other class."""

    sees: ClassVar[tuple[str, ...]] = ("forget",)
    search: ClassVar[Mapping[str, Any]] = {
        "learning_rate": (1e-5, 1e-4, 1e-3, 1e-2),
        "bound": (0.1, 0.25, 0.5),
        "train": (True, False),
    }

    epochs: int = option(10, "passes over the forgotten images", low=0, source="boundary_unlearning.py: poison_epoch")
    learning_rate: float = option(
        1e-5, "learning rate of SGD", low=0, source="boundary_unlearning.py: optimiser of boundary_shrink"
    )
    batch_size: int = option(64, "images in a batch", low=1, source="main.py: --batch_size")
    momentum: float = option(
        0.9, "momentum of SGD", low=0, high=1, source="boundary_unlearning.py: optimiser of boundary_shrink"
    )
    bound: float = option(
        0.1,
        "size of the step that finds the nearest class, on the scale of pixels from 0 to 1",
        low=0,
        high=1,
        source="boundary_unlearning.py: bound",
    )
    labels: str = option(
        "any",
        "new label of a moved image: 'any' may be its old class; 'retained' is the most likely retained class",
        choices=LABELS,
        source="boundary_unlearning.py: pred_label",
    )
    train: bool = option(
        True,
        "put the network in train mode, which moves the running statistics of batch norms to the forgotten images; "
        "False keeps them (ours)",
        source="boundary_unlearning.py: unlearn_model.train()",
    )

    @property
    def trains(self) -> bool:
        """Whether the network is in train mode, which needs `model.train_apply`."""
        return self.train

    def check(self, model: Model, gates: Gates) -> None:
        """Raises `InputError` for a network of texts."""
        del gates
        if model.reads_texts:
            raise InputError(
                "boundary-shrink moves pixels along gradients, and this network reads texts; take another method"
            )

    def unlearn(
        self,
        model: Model,
        forget: tuple[int, ...],
        *,
        data: RequestData,
        statistics: Statistics,
        rng: jax.Array,
    ) -> Model:
        """Returns the model after fine-tuning on the relabelled forgotten images."""
        self.check(model, statistics.gates)
        order_key, step_key = jax.random.split(rng)
        indices = data.forget()
        excluded = forget_vector(forget, statistics) * (self.labels == "retained")
        labels = _nearest_labels(model, data, indices, self, excluded)
        order = epoch_batches(np.arange(len(indices)), self.batch_size, self.epochs, order_key)
        variables = descend(
            label_loss(in_train_mode(model) if self.train else in_eval_mode(model), data.preparation),
            model,
            {"indices": indices[order], "labels": labels[order]},
            np.full(len(order), self.learning_rate),
            step_key,
            optimiser=Optimiser(momentum=self.momentum),
            arguments=(data.images,),
        )
        return model.replace(variables=variables)


@lru_cache(maxsize=16)
def nearest_labels(apply: Callable[[Any, jax.Array], jax.Array], preparation: Preparation) -> Callable[..., jax.Array]:
    """A jitted `(variables, images uint8 (batch, h, w, c), labels, bound, excluded) -> labels int32 (batch,)`.

    `excluded`: 0/1 float32 `(classes,)`, classes that are never returned.
    """

    @jax.jit
    def nearest(
        variables: Any, images: jax.Array, labels: jax.Array, bound: jax.Array, excluded: jax.Array
    ) -> jax.Array:
        def loss(pixels: jax.Array) -> jax.Array:
            return cross_entropy(apply(variables, preparation.plain(pixels)), labels)

        pixels = images.astype(jnp.float32)
        moved = jnp.round(pixels + 255 * bound * jnp.sign(jax.grad(loss)(pixels))).clip(0, 255)
        logits = apply(variables, preparation.plain(moved))
        return everywhere(jnp.where(excluded > 0, -jnp.inf, logits).argmax(-1).astype(jnp.int32))

    return nearest


def _nearest_labels(
    model: Model, data: RequestData, indices: np.ndarray, method: BoundaryShrink, excluded: np.ndarray
) -> np.ndarray:
    """New labels int32 `(k,)` of the images at `indices` `(k,)`."""
    nearest = nearest_labels(model.apply, data.preparation)
    size = batch_of(indices, method.batch_size)
    found = []
    for start in range(0, len(indices), size):
        batch = np.resize(indices[start : start + size], size)  # pads the last batch, so that the program compiles once
        found.append(nearest(model.variables, data.images[batch], data.labels[batch], method.bound, excluded))
    return np.concatenate(found)[: len(indices)]
