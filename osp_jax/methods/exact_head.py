"""Exact head: solves for the head on a frozen network again, from the second moments of the retained classes.

For models with a closed-form head (`config.training.head = "ridge"`, `ridge/moments.py`). The result equals a fit
without the class, up to float64 rounding: ridge regression depends on the images only through sums over classes, and
the sums of a forgotten class are left out. Cauwenberghs and Poggio (NeurIPS 2000) and Guo et al. (ICML 2020,
arXiv 1911.03030) remove single images from linear models; this method removes whole classes at once.

It is exact for the head only; the frozen network keeps what it learned from the images (docs/exact.md).
"""

import dataclasses
from typing import ClassVar

import jax

from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.method import Method
from osp_jax.methods.parts.options import option
from osp_jax.model import Model
from osp_jax.program.gates import Gates
from osp_jax.ridge.network import check_ridge_head, with_head
from osp_jax.runtime.errors import InputError
from osp_jax.statistics import Statistics


@dataclasses.dataclass(frozen=True)
class ExactHead(Method):
    """The head of a fit without the forgotten classes."""

    only_for: ClassVar[str] = "a closed-form head"

    prepared: bool = option(True, "use the head that was solved for before the request, if there is one")

    def check(self, model: Model, gates: Gates) -> None:
        """Raises `InputError` for a model without a closed-form head."""
        del gates
        check_ridge_head(model)

    def unlearn(
        self, model: Model, forget: tuple[int, ...], *, data: RequestData | None, statistics: Statistics, rng: jax.Array
    ) -> Model:
        """Returns the model with the head of the other classes."""
        del data, rng
        check_ridge_head(model)
        moments = statistics.head
        if moments is None:
            raise InputError("the statistics hold no moments of the head; give those of its fit, or fit it again")
        if missing := [number for number in forget if number not in moments.classes]:
            raise InputError(f"the head was fitted to no example of class {missing[0]}; name others")
        kept = [number for number in moments.classes if number not in forget]
        return with_head(model, moments.head_without(forget, self.prepared), kept)
