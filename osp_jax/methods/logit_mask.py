"""Logit mask: a trivial baseline that sets the bias of a forgotten class to -1e9 and changes nothing else."""

import dataclasses

import jax

from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.method import Method
from osp_jax.methods.parts.out_of_reach import check_bias, put_out_of_reach
from osp_jax.model import Model
from osp_jax.program.gates import Gates
from osp_jax.statistics import Statistics


@dataclasses.dataclass(frozen=True)
class LogitMask(Method):
    """Sets the head's bias of each forgotten class to -1e9; it has no settings."""

    def check(self, model: Model, gates: Gates) -> None:
        """Raises `InputError` for a head without a bias."""
        check_bias(gates)

    def unlearn(
        self, model: Model, forget: tuple[int, ...], *, data: RequestData | None, statistics: Statistics, rng: jax.Array
    ) -> Model:
        """Returns the model with the head's bias of each forgotten class at -1e9."""
        del data, rng
        return model.replace(variables=put_out_of_reach(model.variables, statistics.gates, forget))
