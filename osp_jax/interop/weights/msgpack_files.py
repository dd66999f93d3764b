"""msgpack files of Flax (`flax.serialization`): nested tables with arrays as extension values."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from osp_jax.interop.weights.dtypes import DTYPES
from osp_jax.interop.weights.stored import Stored, array_of, fits, replaced
from osp_jax.runtime.errors import InputError, shown

_NDARRAY, _COMPLEX, _SCALAR = 1, 2, 3  # Flax's extension types
_CHUNKED = "__msgpack_chunked_array__"  # arrays too large for one value
_DEEPEST = 200


def read(path: Path, data: bytes) -> dict[str, np.ndarray]:
    """Every array of the file by its keys, joined by '/'. Raises `InputError` for a damaged file."""
    return {key: array_of(data, stored) for key, stored in _layout(path, data).items()}


def rewritten(path: Path, data: bytes, changes: Mapping[str, np.ndarray]) -> bytes:
    """The content of the file with new values for some arrays; all other bytes stay the same."""
    return bytes(replaced(data, _layout(path, data), changes))


def written(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The content of a new file: nested tables, as `flax.serialization.msgpack_serialize` writes them."""
    from flax import serialization

    return serialization.msgpack_serialize(nested(arrays), in_place=True)  # a copy would sort the keys


def nested(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Nested tables of arrays whose keys are joined by '/'.

    Raises:
      InputError: a key is also a prefix of another ('a' and 'a/b').
    """
    tree: dict[str, Any] = {}
    for key, array in arrays.items():
        *outer, last = key.split("/")
        table = tree
        for name in outer:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise InputError(f"{shown(key)} lies inside another array; choose another format")
        if last in table:
            raise InputError(f"{shown(key)} is an array and a table of arrays; choose another format")
        table[last] = array
    return tree


def _layout(path: Path, data: bytes) -> dict[str, Stored]:
    import msgpack

    unpacker = msgpack.Unpacker(
        raw=False, strict_map_key=False, max_buffer_size=len(data) + 1, unicode_errors="surrogateescape"
    )
    unpacker.feed(data)
    layout: dict[str, Stored] = {}
    try:
        _walk(unpacker, data, (), layout)
    except (msgpack.exceptions.UnpackException, ValueError, TypeError, OverflowError, IndexError) as error:
        raise _damaged(path, " ".join(str(error).split())[:80] or "it ends too early") from error
    if unpacker.tell() != len(data):
        raise _damaged(path, f"its content ends at byte {unpacker.tell()} of {len(data)}")
    return layout


def _walk(unpacker: Any, data: bytes, keys: tuple[str, ...], layout: dict[str, Stored]) -> None:
    """Reads the next value, and adds its arrays to `layout`."""
    if len(keys) > _DEEPEST:
        raise ValueError("its tables are nested too deep")
    kind = data[unpacker.tell()]
    if 0x80 <= kind <= 0x8F or kind in (0xDE, 0xDF):
        inside: dict[str, Stored] = {}
        start = unpacker.tell()
        names = []
        for _ in range(unpacker.read_map_header()):
            name = unpacker.unpack()
            if not isinstance(name, str | int | bytes):
                raise ValueError("a key is no text")
            names.append(name.decode(errors="replace") if isinstance(name, bytes) else str(name))
            _walk(unpacker, data, (*keys, names[-1]), inside)
        if _CHUNKED in names:
            inside = {"/".join(keys): _joined(data[start : unpacker.tell()], keys, inside)}
        if layout.keys() & inside.keys() or len(set(names)) < len(names):
            raise ValueError("a duplicate key")
        layout.update(inside)
    elif 0x90 <= kind <= 0x9F or kind in (0xDC, 0xDD):
        for number in range(unpacker.read_array_header()):
            _walk(unpacker, data, (*keys, str(number)), layout)
    elif kind in (0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xC7, 0xC8, 0xC9):
        value = unpacker.unpack()
        code, content = getattr(value, "code", -1), getattr(value, "data", b"")
        if code in (_NDARRAY, _SCALAR):
            layout["/".join(keys)] = _stored(content, unpacker.tell() - len(content))
        elif code != _COMPLEX:
            raise ValueError(f"a value of extension type {code}, which Flax does not write")
    else:
        unpacker.skip()


def _stored(content: bytes, offset: int) -> Stored:
    """The array of an extension value with this content at `offset`."""
    import msgpack

    match msgpack.unpackb(content, raw=False):
        case [list(shape), str(name), bytes(values)] if name in DTYPES:
            shape = tuple(shape)
            if all(type(axis) is int and axis >= 0 for axis in shape):
                dtype = DTYPES[name]
                at = content.rfind(values) if values else len(content)
                if fits(dtype, shape, len(values)) and at + len(values) == len(content):
                    return Stored(dtype, shape, ((offset + at, len(values)),))
        case [_, name, _] if name not in DTYPES:
            raise ValueError(f"an array of dtype {shown(name)}")
    raise ValueError("an array whose bytes do not fit its shape")


def _joined(table: bytes, keys: tuple[str, ...], inside: Mapping[str, Stored]) -> Stored:
    """The array in a table of chunks."""
    import msgpack

    shape = msgpack.unpackb(table, raw=False, strict_map_key=False).get("shape")
    if not isinstance(shape, dict) or not all(type(axis) is int and axis >= 0 for axis in shape.values()):
        raise ValueError("an array of chunks without a shape")
    shape = tuple(shape[str(number)] for number in range(len(shape)) if str(number) in shape)
    chunks = [inside.get("/".join((*keys, "chunks", str(number)))) for number in range(len(inside))]
    if not chunks or None in chunks or len({chunk.dtype for chunk in chunks}) > 1:
        raise ValueError("an array of chunks that lacks some")
    pieces = tuple(piece for chunk in chunks for piece in chunk.pieces)
    if not fits(chunks[0].dtype, shape, sum(size for _, size in pieces)):
        raise ValueError("an array of chunks that do not fit its shape")
    return Stored(chunks[0].dtype, shape, pieces)


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(f"{path} is no whole msgpack file of Flax ({reason}); download or save it again")
