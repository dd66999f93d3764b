"""SCRUB: alternately moves away from the original on forgotten images and back to it on retained images.

Kurmanji, Triantafillou, Hayes and Triantafillou, "Towards Unbounded Machine Unlearning", NeurIPS 2023, arXiv
2302.09880. The student starts as the original, which is its teacher. A max epoch ascends the divergence
KL(teacher || student) on the forgotten images; a min epoch descends `alpha` times that divergence plus `gamma` times
the cross-entropy on the retained ones. The first `max_epochs` epochs are a max and then a min epoch, the others a min
epoch only. The student is in train mode, its teacher in eval mode, and images are not augmented.

Defaults are those of the authors' code (github.com/meghdadk/SCRUB, large_scale_unlearning.ipynb), which forgets class 5
of CIFAR-10. SCRUB+R, which rewinds to an earlier epoch against membership inference, is not implemented.

Ours: one batch size for both kinds of epoch, so that all steps share one program and, as in that code, one momentum;
the code takes 512 forgotten and 256 retained images. Fewer images than a batch are repeated to fill it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, ClassVar

import jax
import numpy as np

from osp_jax.data.augment import Preparation
from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.method import Method
from osp_jax.methods.parts.options import option
from osp_jax.methods.parts.targets import divergence
from osp_jax.model import Model
from osp_jax.runtime.errors import InputError, shown
from osp_jax.statistics import Statistics
from osp_jax.training.descent import Forward, Loss, Optimiser, descend, epoch_batches, in_train_mode
from osp_jax.training.loss import cross_entropy


@dataclasses.dataclass(frozen=True)
class Scrub(Method):
    """Alternately moves away from the original on forgotten images and back to it on retained images."""

    sees: ClassVar[tuple[str, ...]] = ("retain", "forget")
    search: ClassVar[Mapping[str, Any]] = {
        "learning_rate": (0.0005, 0.002, 0.005, 0.02),
        "alpha": (0.001, 0.1, 0.5),
        "max_epochs": (1, 2, 3),
    }
    trains: ClassVar[bool] = True

    epochs: int = option(
        3, "epochs; each ends with a min epoch", low=1, source="large_scale_unlearning.ipynb: sgda_epochs"
    )
    max_epochs: int = option(
        2, "first epochs that begin with a max epoch", low=0, source="large_scale_unlearning.ipynb: msteps"
    )
    learning_rate: float = option(
        0.0005, "initial learning rate of SGD", low=0, source="large_scale_unlearning.ipynb: sgda_learning_rate"
    )
    decay_after: str = option(
        "3,5,9",
        "epochs, counted from 1, after each of which the rate falls; with 3 epochs it never does",
        source="large_scale_unlearning.ipynb: lr_decay_epochs",
    )
    decay_rate: float = option(
        0.1,
        "factor on the rate after each of these epochs",
        low=0,
        source="large_scale_unlearning.ipynb: lr_decay_rate",
    )
    gamma: float = option(0.99, "weight of the cross-entropy", low=0, source="large_scale_unlearning.ipynb: gamma")
    alpha: float = option(
        0.001, "weight of the divergence on retained images", low=0, source="large_scale_unlearning.ipynb: alpha"
    )
    temperature: float = option(
        4.0,
        "temperature of the divergence, which is multiplied by its square",
        low=0.01,
        source="large_scale_unlearning.ipynb: kd_T",
    )
    batch_size: int = option(256, "images in a batch", low=1, source="large_scale_unlearning.ipynb: the retain loader")
    momentum: float = option(
        0.9, "momentum of SGD", low=0, high=1, source="large_scale_unlearning.ipynb: sgda_momentum"
    )
    weight_decay: float = option(
        5e-4, "weight decay, on kernels only (ours)", low=0, source="large_scale_unlearning.ipynb: sgda_weight_decay"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.decays()

    def decays(self) -> list[int]:
        """The epochs, counted from 1, after each of which the rate falls."""
        try:
            return [int(epoch) for epoch in self.decay_after.split(",") if epoch.strip()]
        except ValueError as error:
            raise InputError(f"option decay_after is {shown(self.decay_after)}; give epochs such as 3,5,9") from error

    def unlearn(
        self,
        model: Model,
        forget: tuple[int, ...],
        *,
        data: RequestData,
        statistics: Statistics,
        rng: jax.Array,
    ) -> Model:
        """Returns the student."""
        del forget, statistics
        order_key, step_key = jax.random.split(rng)
        batches = schedule(data.forget(), data.retain(), self, order_key)
        variables = descend(
            scrub_loss(in_train_mode(model), model.apply, data.preparation),
            model,
            {name: values for name, values in batches.items() if name != "rate"},
            batches["rate"],
            step_key,
            optimiser=Optimiser(momentum=self.momentum, weight_decay=self.weight_decay),
            arguments=(data.images, data.labels, model.variables, self.temperature),
        )
        return model.replace(variables=variables)


@lru_cache(maxsize=16)
def scrub_loss(student: Forward, apply: Callable[[Any, jax.Array], jax.Array], preparation: Preparation) -> Loss:
    """Cross-entropy and divergence from the teacher, with the weights `batch['gamma']` and `batch['alpha']`."""

    def loss(
        params: Any,
        rest: Any,
        batch: Any,
        key: jax.Array,
        images: jax.Array,
        labels: jax.Array,
        teacher: Any,
        temperature: jax.Array,
    ) -> Any:
        inputs = preparation.plain(images[batch["indices"]])
        logits, rest = student(params, rest, inputs, key)
        distance = divergence(apply(teacher, inputs), logits, temperature).mean() * temperature**2
        own = cross_entropy(logits, labels[batch["indices"]])
        return batch["gamma"] * own + batch["alpha"] * distance, rest

    return loss


def schedule(forgotten: np.ndarray, retained: np.ndarray, method: Scrub, rng: jax.Array) -> dict[str, np.ndarray]:
    """For each step: indices of its images, int32 `(steps, batch)`, and `gamma`, `alpha` and `rate`, `(steps,)`."""
    phases = []

    def add(images: np.ndarray, key: jax.Array, **values: float) -> None:
        images = np.resize(images, max(method.batch_size, len(images)))  # repeated to fill a batch
        indices = epoch_batches(images, method.batch_size, 1, key)
        phases.append({"indices": indices, **{name: np.full(len(indices), value) for name, value in values.items()}})

    for epoch in range(1, method.epochs + 1):
        max_key, min_key = jax.random.split(jax.random.fold_in(rng, epoch))
        rate = method.learning_rate * method.decay_rate ** sum(epoch > after for after in method.decays())
        if epoch <= method.max_epochs:
            add(forgotten, max_key, gamma=0.0, alpha=-1.0, rate=rate)
        add(retained, min_key, gamma=method.gamma, alpha=method.alpha, rate=rate)
    return jax.tree.map(lambda *values: np.concatenate(values), *phases)
