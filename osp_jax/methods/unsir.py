"""UNSIR: noise that the network cannot name impairs the class, retained images repair the rest.

Tarun, Chundawat, Mandal and Kankanhalli, "Fast Yet Effective Machine Unlearning", IEEE TNNLS 35(9), 2024, arXiv
2111.08947. Zero-glance: no forgotten image is seen. For each forgotten class a set of noise images, in the normalised
space of the network's input, is optimised to a high loss for that class and a small norm; then the network learns the
noise as that class among retained images ("impair"), and then the retained images alone ("repair").

Defaults are those of the authors' notebook (github.com/vikram2000b/Fast-Machine-Unlearning, ResNet-18 on CIFAR-10,
trained with Adam at 0.01). It differs from the paper, so there are two `settings`:

- 'as_intended', the default, is the paper: the noise is optimised against the network in eval mode, all noise images
  are learnt, and the retained images are a random draw of each class.
- 'as_released' is the notebook as it runs: the noise is optimised in train mode, whose running statistics then stay in
  the network; of the noise images of a class only as many are learnt as an image has colour channels, since the loop
  over them runs over the wrong axis; the retained images are the first of each class.

In both the noise of a class has that class as its label; the notebook labels all noise 0, whatever the class.
"""

import dataclasses
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from osp_jax.data.augment import Preparation
from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.options import check_choices, check_options
from osp_jax.methods.parts.targets import forward, label_loss
from osp_jax.statistics import Statistics
from osp_jax.training.descent import Loss, Optimiser, descend, epoch_batches
from osp_jax.training.loss import cross_entropy, train_logits

SEES = ("retain",)
SETTINGS = ("as_intended", "as_released")
SEARCH = {
    "settings": SETTINGS,
    "impair_rate": (0.0003, 0.001, 0.005, 0.02),
    "repair_rate": (0.0003, 0.001, 0.003, 0.01),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of `unsir`; the source of each number is the authors' notebook."""

    settings: str = "as_intended"  # the paper; as_released: the notebook as it runs, see above
    noise_images: int = 256  # of each forgotten class; there the batch size
    noise_steps: int = 40  # 5 epochs of 8 steps
    noise_rate: float = 0.1  # of Adam
    noise_penalty: float = 0.1  # weight of the squared norm, the mean over noise images
    noise_repeats: int = 20  # how often each noise image is learnt in an epoch: num_batches
    retain_per_class: int = 1000  # num_samples_per_class
    impair_rate: float = 0.02  # of Adam
    repair_rate: float = 0.01  # of Adam
    impair_epochs: int = 1
    repair_epochs: int = 1
    batch_size: int = 256

    def __post_init__(self) -> None:
        check_choices(self, settings=SETTINGS)
        check_options(self, noise_images=(1, None), noise_steps=(0, None), noise_rate=(0, None))
        check_options(self, noise_penalty=(0, None), noise_repeats=(1, None), retain_per_class=(1, None))
        check_options(self, impair_rate=(0, None), repair_rate=(0, None), batch_size=(1, None))
        check_options(self, impair_epochs=(0, None), repair_epochs=(0, None))


def unlearn(
    model: nn.Module,
    variables: dict[str, Any],
    forget: tuple[int, ...],
    *,
    data: RequestData,
    statistics: Statistics,
    config: Options,
    rng: jax.Array,
) -> dict[str, Any]:
    """Variables after impairing and repairing."""
    del statistics
    retain_key, noise_key, impair_key, repair_key, step_key = jax.random.split(rng, 5)
    released = config.settings == "as_released"
    retained = data.retain(config.retain_per_class, None if released else retain_key)
    labels = np.asarray(data.labels)[retained]
    noise, variables = optimised_noise(model, variables, forget, data.images.shape[1:], config, noise_key)
    examples = impair_examples(retained, labels, forget, noise.shape[1], config.noise_repeats)
    order = epoch_batches(np.arange(len(examples["labels"])), config.batch_size, config.impair_epochs, impair_key)
    variables = descend(
        impair_loss(model, data.preparation),
        variables,
        {name: values[order] for name, values in examples.items()},
        np.full(len(order), config.impair_rate),
        step_key,
        optimiser=Optimiser("adam"),
        arguments=(data.images, noise.reshape(-1, *noise.shape[2:])),
    )
    order = epoch_batches(np.arange(len(retained)), config.batch_size, config.repair_epochs, repair_key)
    return descend(
        label_loss(model, data.preparation),
        variables,
        {"indices": retained[order], "labels": labels[order]},
        np.full(len(order), config.repair_rate),
        step_key,
        optimiser=Optimiser("adam"),
        arguments=(data.images,),
    )


@lru_cache(maxsize=16)
def noise_loss(model: nn.Module, train: bool) -> Loss:
    """What noise, in the place of the parameters, descends: minus its cross-entropy with `batch['label']`, plus
    `batch['penalty']` times its squared norm; the mean over noise images."""

    def loss(noise: jax.Array, batch_stats: Any, batch: Any, key: jax.Array, params: Any) -> Any:
        del key
        logits, batch_stats = forward(model, params, batch_stats, noise, train)
        norms = jnp.square(noise).sum((1, 2, 3))  # b h w c -> b
        labels = jnp.full(len(noise), batch["label"])
        return batch["penalty"] * norms.mean() - cross_entropy(logits, labels), batch_stats

    return loss


@lru_cache(maxsize=16)
def impair_loss(model: nn.Module, preparation: Preparation) -> Loss:
    """Cross-entropy in train mode; the input is noise where `batch['noise']`, its number, is 0 or more."""

    def loss(params: Any, batch_stats: Any, batch: Any, key: jax.Array, images: jax.Array, noise: jax.Array) -> Any:
        del key
        is_noise = (batch["noise"] >= 0)[:, None, None, None]
        inputs = jnp.where(is_noise, noise[batch["noise"]], preparation.plain(images[batch["indices"]]))
        logits, batch_stats = train_logits(model, params, batch_stats, inputs)
        return cross_entropy(logits, batch["labels"]), batch_stats

    return loss


def optimised_noise(
    model: nn.Module,
    variables: dict[str, Any],
    forget: tuple[int, ...],
    image_shape: tuple[int, int, int],
    config: Options,
    rng: jax.Array,
) -> tuple[jax.Array, dict[str, Any]]:
    """(noise float32 `(forgotten classes, images, h, w, c)`, variables as the optimisation leaves them)."""
    released, steps = config.settings == "as_released", config.noise_steps
    params, batch_stats = variables["params"], variables["batch_stats"]
    noises = []
    for label, key in zip(forget, jax.random.split(rng, len(forget)), strict=True):
        done = descend(
            noise_loss(model, released),
            {"params": jax.random.normal(key, (config.noise_images, *image_shape)), "batch_stats": batch_stats},
            {"label": np.full(steps, label, np.int32), "penalty": np.full(steps, config.noise_penalty)},
            np.full(steps, config.noise_rate),
            key,
            optimiser=Optimiser("adam"),
            arguments=(params,),
        )
        batch_stats = done["batch_stats"]
        noises.append(done["params"][: image_shape[-1]] if released else done["params"])
    return jnp.stack(noises), {"params": params, "batch_stats": batch_stats}


def impair_examples(
    retained: np.ndarray, labels: np.ndarray, forget: tuple[int, ...], noise_images: int, repeats: int
) -> dict[str, np.ndarray]:
    """Of each example, noise first: the image's index, the number of the noise or -1, and the label; int32 `(n,)`."""
    number = np.tile(np.arange(len(forget) * noise_images), repeats)
    named = np.tile(np.repeat(forget, noise_images), repeats)
    examples = {
        # An example of noise needs an index too: that of a retained image, so that no forgotten one is read.
        "indices": np.concatenate([np.full(len(number), retained[0]), retained]),
        "noise": np.concatenate([number, np.full(len(retained), -1)]),
        "labels": np.concatenate([named, labels]),
    }
    return {name: values.astype(np.int32) for name, values in examples.items()}
