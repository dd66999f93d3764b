"""Bad teaching: learns forgotten images from a random network and retained images from the original.

Chundawat, Tarun, Mandal and Kankanhalli, "Can Bad Teaching Induce Forgetting? Unlearning in Deep Networks using an
Incompetent Teacher", AAAI 2023, arXiv 2205.08096. The student starts as the original and descends
KL(teacher || student). The teacher of a forgotten image is a network with fresh random weights (incompetent), that of a
retained image is the original (competent). The student is in train mode, the teachers are in eval mode, and images are
not augmented.

Defaults are those of the authors' code (github.com/vikram2000b/bad-teaching-unlearning), whose notebook forgets one
class of CIFAR-100; the code of SSD (github.com/if-loops/selective-synaptic-dampening) uses the same for whole classes.

Ours: the same number of retained images is drawn from each class, where the code draws from all at once.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.data.augment import Preparation
from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.fresh import fresh_variables
from osp_jax.methods.parts.method import Method
from osp_jax.methods.parts.options import option
from osp_jax.methods.parts.targets import divergence
from osp_jax.model import Model
from osp_jax.statistics import Statistics
from osp_jax.training.descent import Forward, Loss, Optimiser, descend, epoch_batches, in_train_mode


@dataclasses.dataclass(frozen=True)
class BadTeacher(Method):
    """Learns forgotten images from a random network and retained images from the original.

    The sources of the settings are the notebook and `blindspot_unlearner` of the authors' code.
    """

    sees: ClassVar[tuple[str, ...]] = ("retain", "forget")
    search: ClassVar[Mapping[str, Any]] = {"learning_rate": (0.0001, 0.0003, 0.001, 0.003), "epochs": (1, 3, 10)}
    trains: ClassVar[bool] = True
    starts_over: ClassVar[bool] = True

    epochs: int = option(1, "passes over the drawn images", low=0, source="notebook: epochs")
    learning_rate: float = option(0.0001, "learning rate of Adam", low=0, source="notebook: lr")
    batch_size: int = option(256, "images in a batch", low=1, source="notebook: batch_size")
    temperature: float = option(1.0, "temperature of the divergence", low=0.01, source="notebook: KL_temperature")
    retain_fraction: float = option(
        0.3, "share of the retained images that is used", low=0, high=1, source="notebook: retain_train_subset"
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
        """Returns the student."""
        subset_key, teacher_key, order_key, step_key = jax.random.split(rng, 4)
        classes = np.setdiff1d(statistics.classes_seen(), forget)
        counts = np.asarray(next(iter(statistics.layers.values())).count)[classes]
        forgotten = data.forget()
        retained = data.retain(math.ceil(self.retain_fraction * counts.mean()), subset_key)
        batches = epoch_batches(np.concatenate([forgotten, retained]), self.batch_size, self.epochs, order_key)
        incompetent = fresh_variables(model, data.images.shape[1:], teacher_key)
        variables = descend(
            teachers_loss(in_train_mode(model), model.apply, data.preparation),
            model,
            {"indices": batches, "forgotten": np.isin(batches, forgotten)},
            np.full(len(batches), self.learning_rate),
            step_key,
            optimiser=Optimiser("adam"),
            arguments=(data.images, model.variables, incompetent, self.temperature),
        )
        return model.replace(variables=variables)


@lru_cache(maxsize=16)
def teachers_loss(student: Forward, apply: Callable[[Any, jax.Array], jax.Array], preparation: Preparation) -> Loss:
    """Divergence of each image from its teacher; the incompetent teacher if `batch['forgotten']`.

    The mean is over images and classes, as in the authors' code, and there is no factor for the temperature.
    """

    def loss(
        params: Any,
        rest: Any,
        batch: Any,
        key: jax.Array,
        images: jax.Array,
        competent: Any,
        incompetent: Any,
        temperature: jax.Array,
    ) -> Any:
        inputs = preparation.plain(images[batch["indices"]])
        good, bad = (apply(teacher, inputs) for teacher in (competent, incompetent))
        logits, rest = student(params, rest, inputs, key)
        teacher = jnp.where(batch["forgotten"][:, None], bad, good)
        return divergence(teacher, logits, temperature).mean() / logits.shape[-1], rest

    return loss
