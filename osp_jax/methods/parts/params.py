"""Leaves of `params` taken out and put back."""

from typing import Any

from osp_jax.runtime.errors import InputError


def pruned(params: Any, paths: tuple[tuple[str, ...], ...]) -> Any:
    """`params` with nothing but the leaves at `paths`.

    Raises:
      InputError: a path is not there; the statistics are of another network.
    """
    kept: dict[str, Any] = {}
    for path in paths:
        source, target = params, kept
        try:
            for name in path[:-1]:
                source, target = source[name], target.setdefault(name, {})
            target[path[-1]] = source[path[-1]]
        except (KeyError, TypeError) as error:
            where = "/".join(path)
            raise InputError(
                f"the statistics do not fit the parameters: there is no {where}; collect them anew"
            ) from error
    return kept


def merge(variables: dict[str, Any], changed: Any) -> dict[str, Any]:
    """`variables` with the leaves of `changed`, a pruned `params`, in place of its own."""

    def overlay(params: Any, new: Any) -> Any:
        if not isinstance(new, dict):
            return new
        return {**params, **{name: overlay(params[name], new[name]) for name in new}}

    return {**variables, "params": overlay(variables["params"], changed)}
