"""Every request to forget passes here: what it asks for is checked, and what is gone already stays gone.

A class that an earlier request removed must not come back with the next. A method therefore gets neither its images
nor its statistics, and its logit is out of reach while the method runs and afterwards, in the bias of the head: a
method that trains the network cannot learn the class again from what is left of it. (A head without a bias has no such
place; there the class stays away because nothing of it is shown.)
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from osp_jax.data.splits import check_forget
from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.out_of_reach import keep_out_of_reach
from osp_jax.runtime.errors import InputError, shown
from osp_jax.statistics import Statistics


def answer(
    name: str,
    file: ModuleType,
    model: nn.Module,
    variables: dict[str, Any],
    forget: Sequence[int],
    *,
    data: RequestData | None,
    statistics: Statistics,
    config: Any,
    rng: jax.Array,
    gone: Sequence[int] = (),
) -> dict[str, Any]:
    """New variables, by the method whose file is `file`.

    Args:
      forget: class numbers.
      data: what the method may see of the images; None for a method that sees none.
      gone: classes that were forgotten before.

    Raises:
      InputError: `forget` names no class, one that does not exist or is gone, or all that are left; data, statistics
        or options are missing or of another request; or the method cannot act on this network.
    """
    if not isinstance(statistics, Statistics):
        raise InputError(f"statistics are {shown(statistics)}; give what collect_statistics returns")
    if not isinstance(config, file.Options):
        raise InputError(f"config is {shown(config)}; give the options of {name}, {file.__name__}.Options()")
    check_forget(forget, statistics.num_classes, gone)
    forget = tuple(sorted({int(c) for c in forget}))
    if data is None and getattr(file, "SEES", ()):
        raise InputError(f"{name} needs {' and '.join(file.SEES)} images; give data, as request_data returns it")
    if data is not None and set(data.forgotten) != set(forget):
        asked = f"{list(data.forgotten)}, not {list(forget)}"
        raise InputError(f"data are for forgetting {asked}; make them for this request")
    if len(gone):
        statistics, data = statistics.without(gone), data and data.without(gone)
        variables = keep_out_of_reach(variables, statistics.channels, np.unique(gone))
    given = {"data": data, "statistics": statistics, "config": config, "rng": rng}
    new = file.unlearn(model, variables, forget, **given)
    return keep_out_of_reach(new, statistics.channels, np.unique(gone))
