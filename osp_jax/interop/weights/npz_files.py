"""npz files: a zip archive with one `.npy` file per array; arrays of objects, which are pickles, are refused."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from osp_jax.interop.weights.dtypes import is_known
from osp_jax.interop.weights.recognise import BAD_ZIP
from osp_jax.runtime.errors import InputError, shown


def read(path: Path, data: bytes) -> dict[str, np.ndarray]:
    """Every array of the file by name. Raises `InputError` for a damaged file and for arrays of other kinds."""
    arrays = {}
    for name, content in _members(path, data):
        array = _array(path, name, content)
        if array.dtype.kind not in "USM":
            arrays[name] = array
    return arrays


def rewritten(path: Path, data: bytes, changes: Mapping[str, np.ndarray]) -> bytes:
    """The content of the file with new values for some arrays; names, order, dtypes and compression stay the same."""
    contents, file = dict(_members(path, data)), io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w") as new:
        new.comment = old.comment
        for info in old.infolist():
            name = info.filename.removesuffix(".npy")
            content = contents[name]
            if name in changes:
                stored = _array(path, name, content)
                order = "F" if stored.flags.f_contiguous and not stored.flags.c_contiguous else "C"
                values = np.asarray(changes[name]).astype(stored.dtype, order=order).tobytes(order)
                content = content[: len(content) - len(values)] + values
            new.writestr(info, content)
    return file.getvalue()


def written(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The content of a new file. Dtypes that NumPy's format lacks (bfloat16, float8) become float32."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for key, array in arrays.items():
            content = io.BytesIO()
            plain = array.dtype.isbuiltin == 1 or array.dtype.newbyteorder("=").isbuiltin == 1
            np.lib.format.write_array(content, array if plain else array.astype(np.float32), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{key}.npy"), content.getvalue())
    return file.getvalue()


def _members(path: Path, data: bytes) -> list[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            found = [(info.filename.removesuffix(".npy"), archive.read(info)) for info in archive.infolist()]
    except BAD_ZIP as error:
        raise _damaged(path, error) from error
    if len(dict(found)) < len(found):
        raise InputError(f"{path} holds two arrays of one name; save it again")
    return found


def _array(path: Path, name: str, content: bytes) -> np.ndarray:
    file = io.BytesIO(content)
    try:
        np.lib.format.read_magic(file)
        file.seek(0)
        array = np.lib.format.read_array(file, allow_pickle=False)
    except ValueError as error:
        if "Object arrays" in str(error):
            raise InputError(
                f"{path}: {shown(name)} is an array of objects, which can run code; save arrays of numbers alone"
            ) from error
        raise _damaged(path, error) from error
    except (EOFError, SyntaxError, TypeError, OverflowError, MemoryError, UnicodeError) as error:
        raise _damaged(path, error) from error
    if file.read(1):
        raise InputError(f"{path}: {shown(name)} has more bytes than its shape; save it again")
    if array.dtype.kind in "USM":
        return array
    if not is_known(array.dtype):
        raise InputError(f"{path}: {shown(name)} is of dtype {array.dtype}; save it as float32")
    return array


def _damaged(path: Path, error: BaseException) -> InputError:
    reason = " ".join(str(error).split())[:100] or type(error).__name__
    return InputError(f"{path} is a damaged npz file ({reason}); download or save it again")
