"""Forgets a class of an imported network and exports it: a file in the original format, which PyTorch reads.

It compares the original file, the exported file, the model in JAX, and PyTorch with the exported file.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.brought import imports
from benchmarks.evaluating import map_requests, stack_changed
from osp_jax.data.augment import normalise
from osp_jax.data.batches import index_batches
from osp_jax.data.sources import Dataset, Split
from osp_jax.loading import load_workdir
from osp_jax.model import Model
from osp_jax.trees import differing_paths


def take_home(
    name: str, workdir: Path, method: str, classes: Sequence[int], models: Path, scratch: Path, dataset: Dataset
) -> list[dict[str, Any]]:
    """One row per class, for the network `name` of `imports.IMPORTED` that was imported into `workdir`.

    Each request is one `experiments.unlearn` with the default settings and one `experiments.export`, both into
    `scratch`; existing results are used again. Values that a refused request lacks are `None`.
    """
    source = models / imports.IMPORTED[name].file
    original = load_workdir(workdir).model
    homes = {forgotten: _home(workdir, method, forgotten, source, scratch) for forgotten in classes}
    handed = {forgotten: home for forgotten, home in homes.items() if home is not None}
    unlearned = {forgotten: load_workdir(folder).model for forgotten, (folder, _) in handed.items()}
    in_jax = iter(_logits(original, list(unlearned.values()), dataset.test) if unlearned else ())
    before, rows = _read(source), []
    for forgotten in classes:
        row = {"network": name, "method": method, "class": forgotten, "format": source.suffix, "file": source.name}
        row |= {"refused": forgotten not in handed}
        if forgotten in handed:
            file, logits = handed[forgotten][1], next(in_jax)
            after = _read(file)
            touched = differing_paths(original.variables, [unlearned[forgotten].variables])
            row |= compared_files(before, after, touched)
            row |= compared_logits(logits, _torch_logits(name, after, dataset.test, original))
        rows.append(row)
    return rows


def compared_files(before: Mapping[str, Any], after: Mapping[str, Any], touched: Sequence[str]) -> dict[str, Any]:
    """Compares the entries of two files.

    Args:
      before, after: the contents of the files, entries by their whole path, arrays or other values.
      touched: the variables that the method changed, by their names in the network; in the file, a name may have a
        prefix.

    Returns:
      `entries` in the file, `changed` by the method, `identical` bit by bit (including dtype and shape), `lost` and
      `added` entries, and `wrong`: those that differ although the method did not change them.
    """
    same = {key for key in before if key in after and _identical(before[key], after[key])}
    changed = {key for key in before if any(key == path or key.endswith(f".{path}") for path in touched)}
    return {
        "entries": len(before),
        "changed": len(changed),
        "identical": len(same),
        "wrong": len(set(before) - changed - same),
        "lost": len(set(before) - set(after)),
        "added": len(set(after) - set(before)),
    }


def compared_logits(ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    """`images`, `differing` predictions, the largest difference of two logits, the largest logit; `(n, classes)`."""
    return {
        "images": len(ours),
        "differing": int((ours.argmax(-1) != theirs.argmax(-1)).sum()),
        "difference": float(np.abs(ours - theirs).max()),
        "largest": float(np.abs(theirs).max()),
    }


def _home(workdir: Path, method: str, forgotten: int, source: Path, scratch: Path) -> tuple[Path, Path] | None:
    """(the unlearned workdir, the exported file); None if the request was refused."""
    folder = scratch / f"{workdir.name}-{method}-{forgotten}"
    file = folder.with_suffix(source.suffix)
    if not folder.exists():
        flags = {"workdir": workdir, "forget": forgotten, "method": method, "out": folder}
        if imports.run("experiments.unlearn", flags, allowed=(0, 3)) == 3:
            return None
    if not file.exists():
        imports.run("experiments.export", {"workdir": folder, "out": file})
    return folder, file


def _read(file: Path) -> dict[str, Any]:
    """All contents of a PyTorch file by path, such as 'state_dict.module.conv1.weight'; tensors as arrays."""
    import torch

    def flat(value: Any, path: str) -> dict[str, Any]:
        if isinstance(value, Mapping):
            return {key: each for name in value for key, each in flat(value[name], f"{path}{name}.").items()}
        return {path.removesuffix("."): value.numpy() if isinstance(value, torch.Tensor) else value}

    return flat(torch.load(file, map_location="cpu", weights_only=True), "")


def _identical(one: Any, other: Any) -> bool:
    if not isinstance(one, np.ndarray):
        return type(one) is type(other) and one == other
    described = [(array.dtype, array.shape, array.tobytes()) for array in (one, np.asarray(other))]
    return described[0] == described[1]


def _torch_logits(name: str, content: Mapping[str, Any], split: Split, model: Model) -> np.ndarray:
    """Float32 `(n, classes)`, by PyTorch, with the file's own keys (strict) and PyTorch's normalisation."""
    import torch

    from benchmarks.brought import torch_networks

    network = getattr(torch_networks, name)()
    tensors = {key.removeprefix("state_dict."): torch.from_numpy(value) for key, value in _arrays(content).items()}
    # In a network saved within DataParallel, keys have the prefix 'module.'.
    within = torch.nn.ModuleDict({"module": network}) if all(key.startswith("module.") for key in tensors) else network
    within.load_state_dict(tensors, strict=True)
    mean, std = (torch.tensor(moments, dtype=torch.float32)[:, None, None] for moments in (model.mean, model.std))
    network.eval()
    found = []
    with torch.inference_mode():
        for start in range(0, len(split.labels), 500):
            images = torch.from_numpy(np.array(split.images[start : start + 500])).permute(0, 3, 1, 2)
            found.append(network((images.float() / 255 - mean) / std).numpy())
    return np.concatenate(found)


def _arrays(content: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {key: value for key, value in content.items() if isinstance(value, np.ndarray)}


def _logits(model: Model, unlearned: Sequence[Model], split: Split) -> np.ndarray:
    """Float32 `(requests, n, classes)` in JAX; values that no request changes are computed once."""
    stacked = stack_changed(model.variables, [each.variables for each in unlearned])
    moments = jnp.asarray(model.mean, jnp.float32), jnp.asarray(model.std, jnp.float32)
    indices = np.arange(len(split.labels))
    found = [
        np.asarray(_program(model.variables, stacked, (images, *moments), apply=model.apply, requests=len(unlearned)))
        for images, _ in index_batches(split, indices, 500)
    ]
    return np.concatenate(found, axis=1)[:, : len(indices)]


@partial(jax.jit, static_argnames=("apply", "requests"))
def _program(variables: Any, stacked: Any, given: tuple[jax.Array, ...], *, apply: Any, requests: int) -> jax.Array:
    def logits(variables: Any, given: tuple[jax.Array, ...]) -> jax.Array:
        return apply(variables, normalise(*given))

    return map_requests(logits, variables, stacked, given, requests=requests, at_once=1)
