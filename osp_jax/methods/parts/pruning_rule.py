"""The rule that turns scores of channels into gains: its options, which OSP and FedOrtho share, and its use."""

from collections.abc import Mapping
from typing import Any

from osp_jax.masks import STRENGTHS, channel_gains
from osp_jax.methods.parts.options import option


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


def gains_by_rule(scores: Mapping[str, Any], settings: Any) -> dict[str, Any]:
    """`masks.channel_gains` of each layer's scores `(channels,)`, by the options `select`, `amount`, `strength` and
    `constant` of `settings`."""
    rule = {name: getattr(settings, name) for name in ("select", "amount", "strength", "constant")}
    return {name: channel_gains(score, **rule) for name, score in scores.items()}
