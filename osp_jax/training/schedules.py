"""Learning rates by step, and the factor of the orthogonality penalty by epoch."""

from collections.abc import Sequence

import optax

from osp_jax.runtime.errors import InputError, unknown

SCHEDULES = ("one-cycle", "cosine")


def learning_rate(name: str, peak: float, steps: int, warmup: float) -> optax.Schedule:
    """Rises to `peak` over the share `warmup` of `steps`, then falls to nearly 0.

    `one-cycle` (Smith and Topin, 2018) rises along a cosine from peak / 25 and falls to peak / 250,000, the defaults of
    optax; `cosine` rises linearly from 0 and falls along a cosine to 0.

    Raises:
      InputError: an unknown name, or a warm-up outside 0..1.
    """
    if name not in SCHEDULES:
        raise unknown("training.schedule", name, SCHEDULES)
    if not 0 < warmup < 1:
        raise InputError(f"training.warmup is {warmup}; give a share of the steps between 0 and 1")
    if name == "one-cycle":
        return optax.cosine_onecycle_schedule(steps, peak, pct_start=warmup)
    return optax.warmup_cosine_decay_schedule(0.0, peak, min(round(warmup * steps), steps - 1), steps)


def piecewise(schedule: Sequence[Sequence[float]], epoch: int) -> float:
    """The factor of the last `(from_epoch, factor)` pair with `from_epoch <= epoch`; 1 before the first."""
    try:
        begun = [float(factor) for start, factor in sorted(schedule) if start <= epoch]
    except (TypeError, ValueError) as error:
        message = f"orthogonality.schedule is {schedule!r}; give pairs (epoch, factor), as in ((0,1.0),(20,0.1))"
        raise InputError(message) from error
    return begun[-1] if begun else 1.0
