"""Retraining from scratch without the class, by the recipe of the original: the gold standard.

The normalisation stays that of the original, as in a deployed model; everything else follows the recipe and its seed.
"""

import dataclasses
import json
from functools import lru_cache
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from osp_jax.data.augment import Preparation
from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.method import Method
from osp_jax.model import Model
from osp_jax.runtime.errors import InputError
from osp_jax.statistics import Statistics
from osp_jax.training.epoch import RunEpoch, batch_sizes, epoch_parts, make_epoch, run_parts
from osp_jax.training.recipe import Recipe, make_recipe, penalty_weight, trained_by_recipes


@dataclasses.dataclass(frozen=True)
class Retrain(Method):
    """Trains a new network on the retained images by the recipe of the original; it has no settings."""

    sees: ClassVar[tuple[str, ...]] = ("retain",)
    starts_over: ClassVar[bool] = True

    def unlearn(
        self, model: Model, forget: tuple[int, ...], *, data: RequestData, statistics: Statistics, rng: jax.Array
    ) -> Model:
        """Returns a network that was trained on the retained images only.

        Raises:
          InputError: there are fewer images than a batch, the original did not start from random parameters, or
            recipes cannot train its network.
        """
        del forget, statistics, rng
        indices, settings = jnp.asarray(data.retain()), data.recipe_for("Retrain")
        if settings.training.get("start_from"):  # workdirs of older versions lack it
            raise InputError(
                "the original started from another network (training.start_from), so its config is not its whole "
                "recipe; repeat each of its trainings by python -m experiments.train with --config.data.exclude"
            )
        batch_size, last_batch = settings.training.batch_size, settings.training.get("last_batch", "drop")
        steps = len(batch_sizes(len(indices), batch_size, last_batch))
        if not steps:
            raise InputError(
                f"{len(indices)} retained examples do not fill a batch of the recipe; raise retain_per_class"
            )
        key, shape = json.dumps(settings.to_dict(), sort_keys=True), data.images.shape[1:]
        module = trained_by_recipes(model, shape, "retrain")
        recipe, run_epoch = _program(key, module, shape, data.preparation, steps)
        state = jax.tree.map(jnp.copy, recipe.start)  # an epoch donates its state
        for epoch in range(1, settings.training.epochs + 1):
            parts = epoch_parts(indices, recipe.order_key, epoch, batch_size, last_batch)
            weight = jnp.float32(penalty_weight(settings, epoch))
            state, _ = run_parts(run_epoch, state, parts, data.images, data.labels, recipe.step_key, weight)
        return model.replace(variables=state.variables)


@lru_cache(maxsize=8)
def _program(
    settings: str, module: nn.Module, image_shape: tuple[int, int, int], preparation: Preparation, steps: int
) -> tuple[Recipe, RunEpoch]:
    recipe = make_recipe(ConfigDict(json.loads(settings)), module, image_shape, preparation, steps)
    return recipe, make_epoch(recipe.step)
