"""safetensors files: a JSON header with the position of every tensor, then the bytes of all tensors."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from osp_jax.interop.weights.dtypes import DTYPES
from osp_jax.interop.weights.stored import Stored, array_of, fits, replaced
from osp_jax.runtime.errors import InputError, shown

_DTYPES = {
    "BOOL": "bool", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
    "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64",
    "F16": "float16", "F32": "float32", "F64": "float64", "C64": "complex64", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip
_MOST_HEADER = 100_000_000  # bytes; the limit of the format


def read(path: Path, data: bytes) -> dict[str, np.ndarray]:
    """Every tensor of the file by name. Raises `InputError` for a damaged file."""
    return {key: array_of(data, stored) for key, stored in _layout(path, data).items()}


def rewritten(path: Path, data: bytes, changes: Mapping[str, np.ndarray]) -> bytes:
    """The content of the file with new values for some tensors; metadata, order and dtypes stay the same."""
    return bytes(replaced(data, _layout(path, data), changes))


def written(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """The content of a new file."""
    names = {DTYPES[name]: code for code, name in _DTYPES.items() if name in DTYPES}
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    parts, end = [], 0
    # As in the format's own writer: the widest dtypes first, so that every tensor is aligned.
    for key in sorted(arrays, key=lambda key: -arrays[key].dtype.itemsize):
        array, dtype = arrays[key], arrays[key].dtype.newbyteorder("=")
        if dtype not in names:
            raise InputError(f"{shown(key)} is of {dtype}, which safetensors has no name for; choose another format")
        start, end = end, end + array.nbytes
        header[key] = {"dtype": names[dtype], "shape": list(array.shape), "data_offsets": [start, end]}
        parts.append(array.astype(dtype.newbyteorder("<"), copy=False).tobytes())
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(parts)


def _layout(path: Path, data: bytes) -> dict[str, Stored]:
    start = 8 + int.from_bytes(data[:8], "little")
    if len(data) < 8 or start - 8 > _MOST_HEADER or start > len(data):
        raise _damaged(path, "its header does not end within the file")
    try:
        header = json.loads(data[8:start].decode(), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "its header is no JSON") from error
    if not isinstance(header, dict):
        raise _damaged(path, "its header is no table")
    layout = {}
    for key, entry in header.items():
        if key != "__metadata__":
            layout[key] = _stored(path, key, entry, start)
    places = sorted(stored.pieces[0] for stored in layout.values())
    end = start
    for offset, size in places:
        if offset != end:
            raise _damaged(path, "its tensors overlap or leave gaps")
        end += size
    if end != len(data):
        raise _damaged(path, f"it has {len(data)} bytes and its header tells of {end}")
    return layout


def _stored(path: Path, key: str, entry: object, start: int) -> Stored:
    match entry:
        case {"dtype": str(code), "shape": list(shape), "data_offsets": [int(first), int(last)]}:
            if code not in _DTYPES or _DTYPES[code] not in DTYPES:
                raise InputError(f"{path}: {shown(key)} is of dtype {shown(code)}; save it as float32")
            dtype = DTYPES[_DTYPES[code]].newbyteorder("<")
            if all(type(axis) is int and axis >= 0 for axis in shape) and first >= 0:
                shape = tuple(shape)
                if fits(dtype, shape, last - first):
                    return Stored(dtype, shape, ((start + first, last - first),))
    raise _damaged(path, f"its header has no valid entry for {shown(key)}")


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a duplicate name")
    return found


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(f"{path} is no whole safetensors file ({reason}); download or save it again")
