"""UNSIR: noise with a high loss impairs the class, then retained images repair the others.

Tarun, Chundawat, Mandal and Kankanhalli, "Fast Yet Effective Machine Unlearning", IEEE TNNLS 35(9), 2024, arXiv
2111.08947. Zero-glance: the method uses no forgotten image. For each forgotten class a set of noise images, in the
normalised input space, is optimised to a high loss for that class and a small norm; the network then learns the noise
as that class among retained images ("impair"), and then the retained images alone ("repair").

Defaults are those of the authors' notebook (github.com/vikram2000b/Fast-Machine-Unlearning, ResNet-18 on CIFAR-10,
trained with Adam at 0.01). It differs from the paper, so there are two `settings`:

- 'as_intended', the default, is the paper: the noise is optimised against the network in eval mode, all noise images
  are learned, and the retained images are a random draw of each class.
- 'as_released' is the notebook: the noise is optimised in train mode, and its running statistics stay in the network;
  only as many noise images of a class are learned as an image has colour channels, because the loop over them runs over
  the wrong axis; the retained images are the first of each class.

In both, the noise of a class has that class as its label; the notebook labels all noise 0, whatever the class.
"""

import dataclasses
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.data.augment import Preparation
from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.method import Method
from osp_jax.methods.parts.options import option
from osp_jax.methods.parts.targets import label_loss
from osp_jax.model import Model
from osp_jax.program.gates import Gates
from osp_jax.runtime.errors import InputError
from osp_jax.statistics import Statistics
from osp_jax.training.descent import (
    Forward,
    Loss,
    Optimiser,
    descend,
    descend_from,
    epoch_batches,
    in_eval_mode,
    in_train_mode,
    split_variables,
)
from osp_jax.training.loss import cross_entropy
from osp_jax.trees import combine

SETTINGS = ("as_intended", "as_released")


@dataclasses.dataclass(frozen=True)
class Unsir(Method):
    """Impairs the class with noise, then repairs the network with retained images."""

    sees: ClassVar[tuple[str, ...]] = ("retain",)
    search: ClassVar[Mapping[str, Any]] = {
        "settings": SETTINGS,
        "impair_rate": (0.0003, 0.001, 0.005, 0.02),
        "repair_rate": (0.0003, 0.001, 0.003, 0.01),
    }
    trains: ClassVar[bool] = True

    settings: str = option(
        "as_intended", "the paper, or 'as_released', the notebook as it runs", choices=SETTINGS, source="the paper"
    )
    noise_images: int = option(256, "noise images of each forgotten class", low=1, source="notebook: the batch size")
    noise_steps: int = option(40, "steps of Adam on the noise", low=0, source="notebook: 5 epochs of 8 steps")
    noise_rate: float = option(0.1, "learning rate of Adam on the noise", low=0, source="notebook")
    noise_penalty: float = option(
        0.1, "weight of the noise's squared norm, the mean over noise images", low=0, source="notebook"
    )
    noise_repeats: int = option(
        20, "how often an epoch repeats each noise image", low=1, source="notebook: num_batches"
    )
    retain_per_class: int = option(
        1000, "retained images of each class", low=1, source="notebook: num_samples_per_class"
    )
    impair_rate: float = option(0.02, "learning rate of Adam in the impair step", low=0, source="notebook")
    repair_rate: float = option(0.01, "learning rate of Adam in the repair step", low=0, source="notebook")
    impair_epochs: int = option(1, "epochs of the impair step", low=0, source="notebook")
    repair_epochs: int = option(1, "epochs of the repair step", low=0, source="notebook")
    batch_size: int = option(256, "images in a batch", low=1, source="notebook")

    def check(self, model: Model, gates: Gates) -> None:
        """Raises `InputError` for a network of texts."""
        del gates
        if model.reads_texts:
            raise InputError("unsir makes noise of pixels, and this network reads texts; take another method")

    def unlearn(
        self,
        model: Model,
        forget: tuple[int, ...],
        *,
        data: RequestData,
        statistics: Statistics,
        rng: jax.Array,
    ) -> Model:
        """Returns the model after impairing and repairing."""
        self.check(model, statistics.gates)
        del statistics
        retain_key, noise_key, impair_key, repair_key, step_key = jax.random.split(rng, 5)
        released = self.settings == "as_released"
        retained = data.retain(self.retain_per_class, None if released else retain_key)
        labels = np.asarray(data.labels)[retained]
        noise, variables = optimised_noise(model, forget, data.images.shape[1:], self, noise_key)
        model = model.replace(variables=variables)
        examples = impair_examples(retained, labels, forget, noise.shape[1], self.noise_repeats)
        order = epoch_batches(np.arange(len(examples["labels"])), self.batch_size, self.impair_epochs, impair_key)
        variables = descend(
            impair_loss(in_train_mode(model), data.preparation),
            model,
            {name: values[order] for name, values in examples.items()},
            np.full(len(order), self.impair_rate),
            step_key,
            optimiser=Optimiser("adam"),
            arguments=(data.images, noise.reshape(-1, *noise.shape[2:])),
        )
        model = model.replace(variables=variables)
        order = epoch_batches(np.arange(len(retained)), self.batch_size, self.repair_epochs, repair_key)
        variables = descend(
            label_loss(in_train_mode(model), data.preparation),
            model,
            {"indices": retained[order], "labels": labels[order]},
            np.full(len(order), self.repair_rate),
            step_key,
            optimiser=Optimiser("adam"),
            arguments=(data.images,),
        )
        return model.replace(variables=variables)


@lru_cache(maxsize=16)
def noise_loss(forward: Forward) -> Loss:
    """The loss of the noise, which takes the place of the parameters: minus its cross-entropy with `batch['label']`
    plus `batch['penalty']` times its squared norm; the mean over noise images."""

    def loss(noise: jax.Array, rest: Any, batch: Any, key: jax.Array, params: Any) -> Any:
        logits, rest = forward(params, rest, noise, key)
        norms = jnp.square(noise).sum((1, 2, 3))  # b h w c -> b
        labels = jnp.full(len(noise), batch["label"])
        return batch["penalty"] * norms.mean() - cross_entropy(logits, labels), rest

    return loss


@lru_cache(maxsize=16)
def impair_loss(forward: Forward, preparation: Preparation) -> Loss:
    """Cross-entropy; the input is noise image `batch['noise']` if that is 0 or more."""

    def loss(params: Any, rest: Any, batch: Any, key: jax.Array, images: jax.Array, noise: jax.Array) -> Any:
        is_noise = (batch["noise"] >= 0)[:, None, None, None]
        inputs = jnp.where(is_noise, noise[batch["noise"]], preparation.plain(images[batch["indices"]]))
        logits, rest = forward(params, rest, inputs, key)
        return cross_entropy(logits, batch["labels"]), rest

    return loss


def optimised_noise(
    model: Model, forget: tuple[int, ...], image_shape: tuple[int, int, int], method: Unsir, rng: jax.Array
) -> tuple[jax.Array, Any]:
    """(noise float32 `(forgotten classes, images, h, w, c)`, the variables after its optimisation)."""
    released, steps = method.settings == "as_released", method.noise_steps
    forward = in_train_mode(model) if released else in_eval_mode(model)
    (params, rest), noises = split_variables(model), []
    for label, key in zip(forget, jax.random.split(rng, len(forget)), strict=True):
        noise, rest = descend_from(
            noise_loss(forward),
            jax.random.normal(key, (method.noise_images, *image_shape)),
            rest,
            {"label": np.full(steps, label, np.int32), "penalty": np.full(steps, method.noise_penalty)},
            np.full(steps, method.noise_rate),
            key,
            optimiser=Optimiser("adam"),
            arguments=(params,),
        )
        noises.append(noise[: image_shape[-1]] if released else noise)
    return jnp.stack(noises), combine(params, rest)


def impair_examples(
    retained: np.ndarray, labels: np.ndarray, forget: tuple[int, ...], noise_images: int, repeats: int
) -> dict[str, np.ndarray]:
    """For each example, noise first: the image's index, the number of the noise or -1, and the label; int32 `(n,)`."""
    number = np.tile(np.arange(len(forget) * noise_images), repeats)
    named = np.tile(np.repeat(forget, noise_images), repeats)
    examples = {
        # A noise example needs an index too: that of a retained image, so that no forgotten image is read.
        "indices": np.concatenate([np.full(len(number), retained[0]), retained]),
        "noise": np.concatenate([number, np.full(len(retained), -1)]),
        "labels": np.concatenate([named, labels]),
    }
    return {name: values.astype(np.int32) for name, values in examples.items()}
