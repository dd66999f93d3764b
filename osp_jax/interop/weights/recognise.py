"""Which format a file has, by its first bytes; what is no weight file at all gets one line that says what it is."""

import io
import zipfile
from pathlib import Path

from osp_jax.interop.weights.torch_files import LEGACY
from osp_jax.runtime.errors import InputError, printable

FORMATS = ("torch", "safetensors", "msgpack", "orbax", "npz")
SUFFIXES = {"torch": ".pt", "safetensors": ".safetensors", "msgpack": ".msgpack", "orbax": "", "npz": ".npz"}

_AGAIN = "download or save it again"
_STARTS = (
    (b"version https://git-lfs", "is a pointer of Git LFS, not the weights; fetch them: git lfs pull"),
    (b"\x89HDF", "is an HDF5 file, as Keras writes them; save its arrays as npz: numpy.savez(FILE, **arrays)"),
    (b"\x93NUMPY", "is one array; save all of them by name: numpy.savez(FILE, **arrays)"),
    (b"\x1f\x8b", "is compressed by gzip; unpack it: gunzip FILE"),
    (b"BZh", "is compressed by bzip2; unpack it: bunzip2 FILE"),
    (b"\xfd7zXZ", "is compressed by xz; unpack it: unxz FILE"),
    (b"\x28\xb5\x2f\xfd", "is compressed by zstd; unpack it: unzstd FILE"),
    (b"7z\xbc\xaf", "is a 7z archive; unpack it"),
    (b"GGUF", "is a GGUF file; save the weights as safetensors"),
    (b"TFL3", "is a TensorFlow Lite program; save the weights as safetensors", ),
)  # fmt: skip


def format_of(path: Path, data: bytes) -> str:
    """'torch', 'safetensors', 'msgpack' or 'npz', for a file with this content.

    Raises:
      InputError: it is none of these, is empty, or is a download page, a pointer of Git LFS or another kind of file.
    """
    if not data.strip(b"\0 \n\r\t"):
        raise InputError(f"{path} is empty; {_AGAIN}")
    for start, reason in _STARTS:
        if data.startswith(start):
            raise InputError(f"{path} {reason}")
    if data[4:8] == b"TFL3":
        raise InputError(f"{path} is a TensorFlow Lite program; save the weights as safetensors")
    text = data[:512].lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise InputError(f"{path} is a web page, not weights; download the file itself")
    if data.startswith(b"PK"):
        return _format_of_zip(path, data)
    if LEGACY in data[:32]:
        return "torch"
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") < 2**32:
        return "safetensors"
    if data[0] == 0x80 and data[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        raise InputError(f"{path} is a pickle, which can run code and is not loaded; save the weights as safetensors")
    if data[257:262] == b"ustar":
        raise InputError(f"{path} is a tar archive; unpack it")
    if 0x80 <= data[0] <= 0x8F or data[0] in (0xDE, 0xDF):
        return "msgpack"
    if path.suffix in (".pt", ".pth", ".th"):
        raise InputError(f"{path} is no whole PyTorch file; {_AGAIN}")
    if path.suffix == ".safetensors":
        raise InputError(f"{path} is no whole safetensors file (no header); {_AGAIN}")
    if path.suffix == ".npz":
        raise InputError(f"{path} is no npz file; {_AGAIN}")
    raise InputError(
        f"{path} is of no known format; give a PyTorch, safetensors, msgpack (Flax) or npz file, or an Orbax folder"
    )


def _format_of_zip(path: Path, data: bytes) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        raise InputError(f"{path} is not whole (a part at its end is missing); {_AGAIN}") from error
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
