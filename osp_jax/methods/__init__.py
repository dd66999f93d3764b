"""Unlearning methods by name: one file per method, each a frozen dataclass of its settings.

    method = OspFit(margin=2.0)
    unlearned = unlearn_classes(method, model, (3,), statistics=statistics, rng=jax.random.key(0))

`unlearn_classes` checks the request and hides earlier forgotten classes from the method (`methods/parts/door.py`).
`methods/parts/method.py` defines the interface of a method.
"""

import ast
from collections.abc import Sequence
from typing import Any

from osp_jax.methods.bad_teacher import BadTeacher
from osp_jax.methods.boundary_expand import BoundaryExpand
from osp_jax.methods.boundary_shrink import BoundaryShrink
from osp_jax.methods.cdp import Cdp
from osp_jax.methods.cfk import Cfk
from osp_jax.methods.class_aware import ClassAware
from osp_jax.methods.concept_erasure import ConceptErasure
from osp_jax.methods.conv_transpose import ConvTranspose
from osp_jax.methods.esc import Esc
from osp_jax.methods.euk import Euk
from osp_jax.methods.exact_head import ExactHead
from osp_jax.methods.finetune import Finetune
from osp_jax.methods.fisher import Fisher
from osp_jax.methods.gradient_ascent import GradientAscent
from osp_jax.methods.l1_sparse import L1Sparse
from osp_jax.methods.logit_mask import LogitMask
from osp_jax.methods.msg import Msg
from osp_jax.methods.neggrad_plus import NegGradPlus
from osp_jax.methods.osp import Osp
from osp_jax.methods.osp_fit import OspFit
from osp_jax.methods.parts.door import answer as unlearn_classes
from osp_jax.methods.parts.method import Method
from osp_jax.methods.parts.options import Option, describe_options
from osp_jax.methods.random_label import RandomLabel
from osp_jax.methods.retrain import Retrain
from osp_jax.methods.salun import Salun
from osp_jax.methods.scrub import Scrub
from osp_jax.methods.ssd import Ssd
from osp_jax.methods.steu import Steu
from osp_jax.methods.subspace import Subspace
from osp_jax.methods.unsir import Unsir
from osp_jax.runtime.errors import InputError, shown, unknown

__all__ = ["METHODS", "Method", "get_method", "method_name", "options_from", "parse_options", "unlearn_classes"]

_LARGEST = {bool: 1, int: 2**31 - 1, float: 1e30}  # limits of JAX's 32-bit integers and floats

METHODS: dict[str, type[Method]] = {
    "retrain": Retrain,
    "logit-mask": LogitMask,
    "osp": Osp,
    "osp-fit": OspFit,
    "concept-erasure": ConceptErasure,
    "exact-head": ExactHead,
    "finetune": Finetune,
    "l1-sparse": L1Sparse,
    "gradient-ascent": GradientAscent,
    "neggrad+": NegGradPlus,
    "cfk": Cfk,
    "euk": Euk,
    "conv-transpose": ConvTranspose,
    "random-label": RandomLabel,
    "salun": Salun,
    "msg": Msg,
    "ssd": Ssd,
    "fisher": Fisher,
    "unsir": Unsir,
    "bad-teacher": BadTeacher,
    "scrub": Scrub,
    "boundary-shrink": BoundaryShrink,
    "boundary-expand": BoundaryExpand,
    "subspace": Subspace,
    "esc": Esc,
    "cdp": Cdp,
    "class-aware": ClassAware,
    "steu": Steu,
}


def get_method(name: str) -> type[Method]:
    """The class of a method. Raises `InputError` for an unknown name."""
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]


def method_name(method: Method | type[Method]) -> str:
    """The registered name of a method; the class name if it is not registered."""
    kind = method if isinstance(method, type) else type(method)
    return next((name for name, known in METHODS.items() if known is kind), kind.__name__)


def parse_options(name: str, assignments: Sequence[str]) -> Method:
    """The method `name` with settings from 'setting=value' texts.

    Raises:
      InputError: an unknown name, or a value of the wrong type.
    """
    return options_from(get_method(name), assignments)


def options_from(kind: type[Any], assignments: Sequence[str]) -> Any:
    """A dataclass of settings, all with defaults, from 'setting=value' texts.

    Raises:
      InputError: an unknown setting, or a value of the wrong type.
    """
    known = {option.name: option for option in describe_options(kind)}
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, _, text = assignment.partition("=")
        if name not in known:
            raise unknown("option", name, sorted(known) or ["(this method has none)"])
        values[name] = _parsed(known[name], text)
    return kind(**values)


def _parsed(option: Option, text: str) -> Any:
    kind = option.type
    try:
        return text if kind is str else kind(_literal(text, kind))
    except (ValueError, SyntaxError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        remedy = f"give: {option.values} (default: {option.default!r})"
        raise InputError(f"option {option.name}={shown(text)} cannot be read; {remedy}") from error


def _literal(text: str, kind: type) -> Any:
    value = ast.literal_eval(text.capitalize() if kind is bool else text)
    if not isinstance(value, (int, float)) or isinstance(value, bool) != (kind is bool):
        raise ValueError(text)
    if kind is int and value != int(value):
        raise ValueError(text)
    if not abs(value) <= _LARGEST[kind]:  # also true for nan
        raise ValueError(text)
    return value
