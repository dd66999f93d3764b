"""PyTorch files: read and written by `torch.save` and `torch.load(weights_only=True)`, which executes nothing from the
file. From a checkpoint, the one mapping from names to tensors is used; everything else in it is kept."""

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from osp_jax.interop.weights.dtypes import DTYPES
from osp_jax.runtime.errors import InputError, printable, shown

ZIP = b"PK\x03\x04"
LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # pickled magic number at the start of files of the older format

# Names of the state dict in checkpoints: of several mappings with tensors, the first of these names is used.
_USUAL = (
    "state_dict", "model_state_dict", "model", "net", "network", "model_state", "state_dict_model", "net_state_dict",
    "module", "params", "weights", "ema", "model_ema", "state_dict_ema", "params_ema",
)  # fmt: skip
# Entries of these names belong to the training, not to the network.
_OTHERS = re.compile(r"opt|optim\w*|\w*optimi[sz]er\w*|\w*sched\w*|\w*scaler\w*|rng\w*|callbacks|loops", re.IGNORECASE)
_DEEPEST = 6


def read(path: Path, data: bytes) -> dict[str, np.ndarray]:
    """Every tensor of the state dict in the file by key, in its own dtype.

    Raises:
      InputError: PyTorch is not installed; the file is damaged, would run code, or holds no state dict, or several.
    """
    state = state_dict(path, _loaded(path, data))
    return {key: _array(path, key, tensor) for key, tensor in state.items() if _is_tensor(tensor)}


def rewritten(path: Path, data: bytes, changes: Mapping[str, np.ndarray]) -> bytes:
    """The content of the file with new values for some tensors of its state dict.

    All other entries, the order of the keys, dtypes, strides and the file format stay the same. Tied weights (keys of
    one tensor) stay tied unless `changes` has different values for them.
    """
    torch = torch_or_advice(path)
    content = _loaded(path, data)
    state = state_dict(path, content)
    _change(state, {key: tensor_of(value) for key, value in changes.items()})
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=data.startswith(ZIP))
    return file.getvalue()


def written(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The content of a new file: a state dict."""
    torch = torch_or_advice(None)
    file = io.BytesIO()
    torch.save({key: tensor_of(array) for key, array in arrays.items()}, file)
    return file.getvalue()


def torch_or_advice(path: Path | None) -> Any:
    """The module `torch`. Raises `InputError` if it is not installed."""
    try:
        import torch
    except ImportError as error:
        what = "PyTorch files" if path is None else f"{path} is a PyTorch file, and these"
        raise InputError(f'{what} need PyTorch; install it: pip install "osp_jax[torch]"') from error
    return torch


def tensor_of(array: np.ndarray) -> Any:
    """A tensor with a copy of the values, of the same dtype, including bfloat16 and float8."""
    import torch

    array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))).reshape(array.shape)
    if array.dtype.kind in "biufc" and array.dtype.isbuiltin == 1:
        return torch.from_numpy(array.copy())
    return torch.from_numpy(array.view(f"u{array.itemsize}")).view(getattr(torch, array.dtype.name))


def state_dict(path: Path, content: Any) -> dict[str, Any]:
    """The mapping from names to tensors in the content of a file.

    Raises:
      InputError: there is none, or several without a usual name.
    """
    found = dict(_candidates(content, ()))
    if not found:
        held = f", but {type(content).__name__}" if not isinstance(content, Mapping) else ""
        raise InputError(f"{path} holds no state dict{held}; save one: torch.save(model.state_dict(), FILE)")
    for name in _USUAL:
        named = [keys for keys in found if keys and keys[-1] == name]
        shallow = [keys for keys in named if len(keys) == min(map(len, named))]
        if len(shallow) == 1:
            return found[shallow[0]]
    if len(found) > 1:
        names = ", ".join(printable("/".join(map(str, keys))) or "the file itself" for keys in list(found)[:5])
        raise InputError(
            f"{path} holds {len(found)} mappings with tensors ({names}); save that of the network alone: "
            "torch.save(model.state_dict(), FILE)"
        )
    return next(iter(found.values()))


def others(path: Path, data: bytes) -> tuple[str, ...]:
    """The other entries of a file that hold tensors, by keys joined by '/': 'optimizer', 'ema'."""
    content = _loaded(path, data)
    state = state_dict(path, content)
    if content is state or not isinstance(content, Mapping):
        return ()
    found = []
    for key, value in content.items():
        if isinstance(value, Mapping) and any(inner is state for inner in value.values()):
            found += [f"{key}/{name}" for name, inner in value.items() if inner is not state and _has_tensors(inner)]
        elif value is not state and _has_tensors(value):
            found.append(str(key))
    return tuple(printable(name) for name in found)


def _has_tensors(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_tensors, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_has_tensors, value))
    return _is_tensor(value) and value.dim() > 0


def _change(state: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Writes values into tensors of a state dict, in place, so that all keys of one tensor see the change.

    Tensors that share memory with them and keep, or get, another value get their own memory.
    """
    import torch

    def memory(tensor: Any) -> int:
        return tensor.untyped_storage().data_ptr()

    def place(tensor: Any) -> Any:
        return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype

    tensors = {key: tensor for key, tensor in state.items() if _is_tensor(tensor)}
    touched = {memory(tensors[key]) for key in changes}
    values = {place(tensors[key]): value for key, value in changes.items()}
    wanted = {}
    for key, tensor in tensors.items():
        if memory(tensor) in touched:
            new = changes.get(key, values.get(place(tensor)))
            wanted[key] = tensor.detach().clone() if new is None else new
    with torch.no_grad():
        for key, value in changes.items():
            if not _overlaps_itself(tensors[key]):
                tensors[key].copy_(value)
        for key, value in wanted.items():
            if not torch.equal(_bits(tensors[key]), _bits(value)):
                state[key] = _apart(tensors[key], value)


def _overlaps_itself(tensor: Any) -> bool:
    """Whether several entries of a tensor share memory, as after `expand`."""
    return any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _bits(tensor: Any) -> Any:
    import torch

    return tensor.detach().contiguous().flatten().view(torch.uint8)


def _apart(tensor: Any, value: Any) -> Any:
    """A new tensor with these values, of the type of `tensor`."""
    import torch

    new = torch.empty_like(tensor.detach()).copy_(value)
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(new, tensor.requires_grad)
    return new.requires_grad_(tensor.requires_grad)


def _candidates(content: Any, keys: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Mapping[str, Any]]]:
    """(keys, mapping) for each mapping from text to values, one of them a tensor that is no scalar, in `content`."""
    if len(keys) > _DEEPEST:
        return
    if isinstance(content, Mapping):
        if any(isinstance(key, str) and _is_tensor(value) and value.dim() for key, value in content.items()):
            yield keys, content
        inside = [(key, value) for key, value in content.items() if isinstance(key, str) and not _OTHERS.fullmatch(key)]
    elif isinstance(content, Sequence) and not isinstance(content, str | bytes) and len(content) <= 16:
        inside = list(enumerate(content))
    else:
        return
    for key, value in inside:
        yield from _candidates(value, (*keys, key))


def _loaded(path: Path, data: bytes) -> Any:
    torch = torch_or_advice(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes raise errors of any type; no code of the file runs
        if type(error).__name__ == "UnpicklingError":
            raise _refused(path, data, str(error)) from error
        reason = re.split(r"(?<=[.:]) ", " ".join(str(error).split()))[0][:120] or type(error).__name__
        raise InputError(f"{path} is a damaged PyTorch file ({reason}); download or save it again") from error


def _refused(path: Path, data: bytes, reason: str) -> InputError:
    """The error for a file that `weights_only` refuses."""
    named = re.search(r"GLOBAL (\S+) was not an allowed global", reason) or re.search(r"global:? (\S+\.\S+)", reason)
    if named is None:
        reason = " ".join(reason.split("WeightsUnpickler error:")[-1].split()).partition(" Check the documentation")[0]
        return InputError(f"{path} is a damaged PyTorch file ({reason[:120]}); download or save it again")
    pickled = _pickled(data)
    inner = "[KEY]" if pickled[2:3] == b"}" else ""
    if b"torch.nn.modules." in pickled:
        weights = f"torch.load(FILE, weights_only=False){inner}.state_dict()"
    elif "_reconstruct" in named[1]:
        weights = "{k: torch.tensor(v) for k, v in torch.load(FILE, weights_only=False)['state_dict'].items()}"
    else:
        weights = "torch.load(FILE, weights_only=False)['state_dict']"
    return InputError(
        f"{path} holds more than tensors ({printable(named[1])}), and loading that can run code; where you trust it, "
        f"save its tensors alone: torch.save({weights}, NEW)"
    )


def _pickled(data: bytes) -> bytes:
    """The start of the pickle of the object in a file."""
    if data.startswith(ZIP):
        return data[max(0, data.find(b"\x80\x02", data.find(b"data.pkl"))) :][:1_000_000]
    # Three other pickles precede it: a number, a version and the system.
    return b"\x80\x02" + b".\x80\x02".join(data[:1_000_000].split(b".\x80\x02")[3:])


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _array(path: Path, key: str, tensor: Any) -> np.ndarray:
    import torch

    name = str(tensor.dtype).removeprefix("torch.")
    if (
        tensor.layout != torch.strided
        or tensor.is_quantized
        or tensor.is_meta
        or tensor.is_nested
        or name not in DTYPES
    ):
        kind = "without values" if tensor.is_meta else f"{name}, {str(tensor.layout).removeprefix('torch.')}"
        raise InputError(f"{path}: {shown(key)} is a tensor of another kind ({kind}); save it dense, as float32")
    return array_of(tensor)


def array_of(tensor: Any) -> np.ndarray:
    """A copy of the values of a dense tensor on the CPU, in its own dtype, including bfloat16 and float8."""
    import torch

    name = str(tensor.dtype).removeprefix("torch.")
    tensor = tensor.detach().resolve_conj().resolve_neg().contiguous()
    if DTYPES[name].isbuiltin == 1:
        return tensor.numpy().copy()
    bits = {1: torch.uint8, 2: torch.int16}[tensor.element_size()]
    return tensor.view(bits).numpy().copy().view(DTYPES[name])
