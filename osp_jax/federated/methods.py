"""Federated unlearning methods by name, and their settings from texts such as 'fedortho:layers=last,score=matched'."""

import dataclasses

from osp_jax.federated.editing import FederatedMethod
from osp_jax.federated.fedortho import FedOrtho
from osp_jax.federated.fedup import FedUp, NaturalForgetting, Negation
from osp_jax.federated.fucdp import FuCdp
from osp_jax.methods import options_from
from osp_jax.runtime.errors import unknown

METHODS: dict[str, type[FederatedMethod]] = {
    "natural": NaturalForgetting,
    "fedortho": FedOrtho,
    "fu-cdp": FuCdp,
    "fedup": FedUp,
    "not": Negation,
}


def parse_method(text: str) -> FederatedMethod:
    """A method from 'name' or 'name:setting=value,setting=value'.

    Raises:
      InputError: an unknown method or setting, or a value that cannot be used.
    """
    name, _, assignments = text.partition(":")
    if name not in METHODS:
        raise unknown("federated method", name, METHODS)
    return options_from(METHODS[name], [part for part in assignments.split(",") if part])


def settings_of(method: FederatedMethod) -> dict[str, object]:
    """The settings of a method by name, JSON-ready."""
    return dataclasses.asdict(method)
