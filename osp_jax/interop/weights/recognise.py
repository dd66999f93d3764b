"""Recognises the format of a file by its first bytes; other kinds of files raise an error that names their kind."""

import io
import struct
import zipfile
import zlib
from pathlib import Path

from osp_jax.interop.weights.torch_files import LEGACY
from osp_jax.runtime.errors import InputError, printable

FORMATS = ("torch", "safetensors", "msgpack", "orbax", "npz")

_AGAIN = "download or save it again"
# Errors of `zipfile` for damaged archives.
BAD_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    ValueError,
    EOFError,
    OSError,
    NotImplementedError,
    KeyError,
    RuntimeError,
)
_TO_NPZ = "save its arrays as npz: numpy.savez(FILE, **arrays)"
_TO_SAFETENSORS = "save its weights as safetensors"
_NPY = b"\x93NUMPY"
# The first bytes of other kinds of files, with their offset.
_STARTS = (
    (0, b"version https://git-lfs", "is a pointer of Git LFS, not the weights; fetch them: git lfs pull"),
    (0, b"\x89HDF", f"is an HDF5 file, as Keras writes them; {_TO_NPZ}"),
    (0, b"MATLAB ", f"is a MATLAB file; {_TO_NPZ}"),
    (0, _NPY, "is one array; save all of them by name: numpy.savez(FILE, **arrays)"),
    (0, b"\x1f\x8b", "is compressed; unpack it: gunzip FILE"),
    (0, b"BZh", "is compressed; unpack it: bunzip2 FILE"),
    (0, b"\xfd7zXZ", "is compressed; unpack it: unxz FILE"),
    (0, b"\x28\xb5\x2f\xfd", "is compressed; unpack it: unzstd FILE"),
    (0, b"7z\xbc\xaf", "is an archive; unpack it and give the file with the weights"),
    (0, b"Rar!", "is an archive; unpack it and give the file with the weights"),
    (0, b"GGUF", f"is a GGUF file; {_TO_SAFETENSORS}"),
    (4, b"TFL3", f"is a TensorFlow Lite program; {_TO_SAFETENSORS}"),
    (0, b"sys_info", "is of PyTorch before 0.2; load it there and save it again: torch.save(model.state_dict(), FILE)"),
    (257, b"ustar", "is a tar archive; unpack it and give the file with the weights"),
)
_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head")
_SUFFIXES = {".safetensors": "safetensors", ".msgpack": "msgpack", ".npz": "npz"} | dict.fromkeys(
    (".pt", ".pth", ".th"), "PyTorch"
)


def format_of(path: Path, data: bytes) -> str:
    """'torch', 'safetensors', 'msgpack' or 'npz', for a file with this content.

    Raises:
      InputError: it is none of these, is empty, or is a web page, a Git LFS pointer or another kind of file.
    """
    if not data[:4096].strip(b"\0 \n\r\t"):
        raise InputError(f"{path} is empty; {_AGAIN}")
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") < 2**32:  # before the check for gzip's magic number
        return "safetensors"
    if data.startswith(_NPY) and data.count(_NPY) > 1:
        raise InputError(f"{path} holds arrays without names, as Equinox writes them; {_TO_NPZ}")
    for at, start, reason in _STARTS:
        if data[at : at + len(start)] == start:
            raise InputError(f"{path} {reason}")
    if data[:512].lstrip().lower().startswith(_PAGES):
        raise InputError(f"{path} is a web page, not weights; download the file itself")
    if data.startswith(b"PK"):
        return _format_of_zip(path, data)
    if LEGACY in data[:32]:
        return "torch"
    if data[0] == 0x80 and data[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        raise InputError(f"{path} is a pickle, which can run code and is not loaded; {_TO_SAFETENSORS}")
    if 0x80 <= data[0] <= 0x8F or data[0] in (0xDE, 0xDF):
        return "msgpack"
    if path.suffix == ".onnx":
        raise InputError(f"{path} is an ONNX program; give the weights that it was exported from")
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in data[:512]):
        raise InputError(f"{path} is text, not weights; give the file with the arrays")
    if path.suffix in _SUFFIXES:
        raise InputError(f"{path} is no whole {_SUFFIXES[path.suffix]} file; {_AGAIN}")
    raise InputError(
        f"{path} is of no known format; give a PyTorch, safetensors, msgpack (Flax) or npz file, or an Orbax folder"
    )


def _format_of_zip(path: Path, data: bytes) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
    except BAD_ZIP as error:
        raise InputError(f"{path} is not whole: its table of contents is missing or damaged; {_AGAIN}") from error
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner:
        raise InputError(
            f"{path} is a TorchScript program; save its weights: torch.save(torch.jit.load(FILE).state_dict(), NEW)"
        )
    if "archive_format" in inner or "serialized_exported_program.json" in names:
        raise InputError(
            f"{path} is an exported program; save its weights: torch.save(torch.export.load(FILE).state_dict, NEW)"
        )
    if "data.pkl" in inner:
        return "torch"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    if "model.weights.h5" in names:
        raise InputError(f"{path} is a Keras file; save its arrays as npz: numpy.savez(FILE, **arrays)")
    held = printable(", ".join(names[:3])) or "nothing"
    raise InputError(f"{path} is a zip archive of {held}; unpack it and give the file with the weights")
