"""The state of a PyTorch module: an independent copy of the module, and its entries by key."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from osp_jax.runtime.errors import InputError, shown


@dataclasses.dataclass(frozen=True)
class State:
    """The content of `module.state_dict()`.

    Attributes:
      entries: by the keys of the original module, in their own dtypes.
      names: for each float tensor, by its name in the unwrapped module, the key of its variable; for tied tensors, that
        of the first.
      tied: for each key, that of its variable.
      parameters: the keys of variables that are parameters.
    """

    entries: Mapping[str, Any]
    names: Mapping[str, str]
    tied: Mapping[str, str]
    parameters: frozenset[str]

    def float32(self, key: str) -> np.ndarray:
        """An entry as the network reads it."""
        return self.entries[key].float().numpy()

    def with_values(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """The entries, with new values from the variables."""
        return {key: self._entry(key, variables) for key in self.entries}

    def _entry(self, key: str, variables: Mapping[str, Any]) -> Any:
        old, name = self.entries[key], self.tied.get(key)
        if not isinstance(old, torch.Tensor):
            return copy.deepcopy(old)
        if name not in variables:
            return old.clone()
        new = torch.from_numpy(np.array(variables[name], np.float32))
        return old.clone() if torch.equal(new, old.float()) else new.to(old.dtype)


def own_copy(module: Any) -> tuple[torch.nn.Module, State]:
    """(a copy on the CPU, float32, in eval mode, without wrappers; its state).

    Raises:
      InputError: `module` is no module, or has no weights.
    """
    _check_module(module)
    bare = _unwrapped(module)
    entries = {key: _kept(value) for key, value in module.state_dict().items()}
    try:
        bare = copy.deepcopy(bare, _memo(bare))
    except Exception as error:  # user code may raise anything
        raise InputError(
            f"the module cannot be copied ({' '.join(str(error).split())[:200]}); give one that copy.deepcopy can copy"
        ) from error
    for parent in list(bare.modules()):
        for name, child in parent.named_children():
            if _unwrapped(child) is not child:
                setattr(parent, name, _unwrapped(child))
    bare = bare.cpu().float().eval()
    names, tied, first = {}, {}, {}
    for (name, tensor), key in zip(bare.state_dict(keep_vars=True).items(), entries, strict=True):
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
            names[name] = tied[key] = first.setdefault(id(tensor), key)
    parameters = frozenset(names[name] for name, _ in bare.named_parameters() if name in names)
    return bare, State(entries, names, tied, parameters)


def _check_module(module: Any) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise InputError(
            "module is a TorchScript module, which cannot be traced; give the torch.nn.Module that it was made from"
        )
    if isinstance(module, type) and issubclass(module, torch.nn.Module):
        raise InputError(
            f"module is the class {module.__name__}; give an instance with its weights, {module.__name__}(...)"
        )
    if isinstance(module, Mapping):
        raise InputError("module is a mapping; give the torch.nn.Module, after module.load_state_dict(...)")
    if not isinstance(module, torch.nn.Module):
        raise InputError(f"module is {shown(module)}; give a torch.nn.Module")
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if isinstance(tensor, torch.nn.parameter.UninitializedTensorMixin):
            raise InputError(f"{name} of the module has no shape yet; apply the module to images once, then give it")
        if tensor.is_meta:
            raise InputError(f"{name} of the module is on the device 'meta', without a value; load its weights first")


def _unwrapped(module: Any) -> Any:
    """The module inside `torch.compile`, `DataParallel` and `DistributedDataParallel`."""
    while True:
        if isinstance(module, torch._dynamo.OptimizedModule):
            module = module._orig_mod
        elif isinstance(module, torch.nn.DataParallel | torch.nn.parallel.DistributedDataParallel):
            module = module.module
        else:
            return module


def _memo(module: torch.nn.Module) -> dict[int, Any]:
    """Replacements for `copy.deepcopy` of tensors in the module that it cannot copy, those with a gradient history."""
    tensors = (value for part in module.modules() for value in vars(part).values() if isinstance(value, torch.Tensor))
    return {id(tensor): tensor.detach().clone() for tensor in tensors if not tensor.is_leaf}


def _kept(value: Any) -> Any:
    return value.detach().cpu().clone() if isinstance(value, torch.Tensor) else copy.deepcopy(value)
