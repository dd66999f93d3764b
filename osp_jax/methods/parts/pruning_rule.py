"""The rule that turns scores of channels into gains, for OSP and FedOrtho: its options, their check, and its use."""

from collections.abc import Mapping
from typing import Any

from osp_jax.masks import STRENGTHS, channel_gains
from osp_jax.methods.parts.options import check_options, option
from osp_jax.runtime.errors import InputError

_AMOUNTS = {"fraction": (0, 1), "top-k": (1, 2**31 - 1), "threshold": (-1e6, 1e6)}  # by `select`


def amount_option() -> Any:
    """How much is selected."""
    return option(
        0.25,
        "share of each layer's channels with select=fraction, their number with select=top-k, the lowest score with "
        "select=threshold",
        source="reimplementation",
    )


def strength_option() -> Any:
    """How strongly a selected channel is pruned."""
    return option(
        "rank",
        "pruning strength of a selected channel: 'rank' is max(0.5, 1 - r / k), 'hard' is 1, 'constant' is the same "
        "for all",
        choices=STRENGTHS,
        source="reimplementation",
    )


def constant_option() -> Any:
    """The strength that all selected channels have in common."""
    return option(0.5, "strength for strength=constant", low=0, high=1)


def check_amount(settings: Any) -> None:
    """Raises `InputError` if the option `amount` of `settings` is out of the range of its option `select`."""
    if settings.select == "top-k" and (settings.amount < 1 or settings.amount != int(settings.amount)):
        raise InputError(
            f"option amount is {settings.amount}; with select=top-k give a number of channels, such as amount=4"
        )
    check_options(settings, amount=_AMOUNTS[settings.select])


def gains_by_rule(scores: Mapping[str, Any], settings: Any) -> dict[str, Any]:
    """`masks.channel_gains` of each layer's scores `(channels,)`, by the options `select`, `amount`, `strength` and
    `constant` of `settings`."""
    rule = {name: getattr(settings, name) for name in ("select", "amount", "strength", "constant")}
    return {name: channel_gains(score, **rule) for name, score in scores.items()}
