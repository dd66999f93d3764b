"""Exports a model to a file: its weights in their original or another format, or its program."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from osp_jax.exports import weights as weight_entries
from osp_jax.exports.program import BATCHES, Program, check_logits, program_of
from osp_jax.exports.stablehlo import PLATFORMS, loaded, serialised
from osp_jax.interop import weight_files
from osp_jax.model import Model
from osp_jax.networks.cpu.depthwise import plain_convolutions
from osp_jax.runtime.errors import InputError, shown, unknown
from osp_jax.runtime.provenance import version
from osp_jax.runtime.replacing import is_temporary, write_bytes

PROGRAMS = ("stablehlo", "onnx")
FORMATS = (*weight_files.FORMATS, *PROGRAMS)

SUFFIXES = {
    **dict.fromkeys((".pt", ".pth", ".th", ".bin", ".ckpt", ".tar"), "torch"),
    ".safetensors": "safetensors",
    ".msgpack": "msgpack",
    ".npz": "npz",
    ".stablehlo": "stablehlo",
    ".onnx": "onnx",
}


@dataclasses.dataclass(frozen=True)
class Export:
    """The result of an export; `str` describes it in one line.

    Attributes:
      path, format: path and format of the file, or of the folder for Orbax.
      entries: number of arrays; None for a program.
      changed: number of arrays that differ from the original file; None without one.
      difference: between the logits of the exported program and the model's, relative to the largest; None for weights.
      detail: for a program: its platforms or its opset, and the axis order of its images.
      beside: other contents of the original file, such as averaged weights or the state of an optimiser. They are
        unchanged, and may still know the forgotten classes.
    """

    path: Path
    format: str
    entries: int | None = None
    changed: int | None = None
    difference: float | None = None
    detail: str = ""
    beside: tuple[str, ...] = ()

    def __str__(self) -> str:
        written = f"{self.path}: {self.format}{', ' if self.detail else ''}{self.detail}"
        if self.difference is not None:
            batches = " and ".join(map(str, BATCHES))
            return (
                f"{written}; logits as the network's to {self.difference:.0e} of the largest, in batches of {batches}"
            )
        if self.changed is None:
            return f"{written}, {self.entries} arrays; read back bit-identical"
        return f"{written}, {self.changed} of {self.entries} arrays changed; read back, the others bit-identical"


def export(
    model: Model,
    out: str | os.PathLike,
    *,
    format: str = "",
    like: str | os.PathLike | None = None,
    image_shape: tuple[int, int, int] | None = None,
    overwrite: bool = False,
) -> Export:
    """Exports a model to a file, which is written atomically and verified.

    Weights: 'torch', 'safetensors', 'msgpack' (Flax), 'orbax' (a folder) or 'npz'. With `like`, in the same format, the
    result is that file with its keys, dtypes and other entries, and new values only for arrays that changed. Without
    it, the result has the model's arrays by path, or for a PyTorch network the entries of its `state_dict`.

    Programs include the weights, and take normalised float32 images in batches of any size: `(batch, h, w, c)`, or
    `(batch, c, h, w)` for a network from PyTorch. Their logits are compared with the model's.

    - 'stablehlo': `jax.export.deserialize(bytearray(open(out, "rb").read())).call(images)`
    - 'onnx': `onnxruntime.InferenceSession(out).run(["logits"], {"images": images})`

    A forgotten class keeps its logit, so that readers of the file need not change.

    Args:
      model: the model to export.
      out: the file to write, or for 'orbax' the folder.
      format: one of `FORMATS`; empty: by the suffix of `out`, else that of `like`.
      like: the original weight file of the model.
      image_shape: (height, width, channels); needed for programs.
      overwrite: whether to replace the file `out`, or the Orbax folder.

    Returns:
      a description of the file.

    Raises:
      InputError: an unknown format, a missing extra, a file that exists or belongs to another network, an operation
        that cannot be exported, or a program whose logits differ by more than 1e-4 of the largest.
    """
    out, like = Path(out), None if like is None else Path(like)
    format = named_format(out, format) or (weight_files.read_weights(like).format if like else "")
    if not format:
        raise InputError(f"the suffix of {out} names no format; give format, one of: {', '.join(FORMATS)}")
    check_place(out, format, overwrite, like)
    if format in PROGRAMS:
        if like is not None:
            raise InputError(f"like is for weights, and {format} is a program; leave it out")
        if image_shape is None:
            raise InputError(f"{format} needs the shape of an image; give image_shape=(height, width, channels)")
        return export_program(model, out, format, tuple(image_shape))
    entries = weight_entries.entries_of(model)
    source = None if like is None else weight_entries.source_of(like, entries)
    return export_weights(model, out, format, entries, source, overwrite=overwrite)


def named_format(out: Path, format: str) -> str:
    """The chosen format, or that of the suffix of `out`; '' without either. Raises as `export`."""
    if format and format not in FORMATS:
        raise unknown("format", format, FORMATS)
    return format or SUFFIXES.get(out.suffix.lower(), "")


def check_place(out: Path, format: str, overwrite: bool, source: Path | None) -> None:
    """Raises `InputError` if `out` exists and must not be replaced."""
    if source is not None and out.resolve() == source.resolve():
        raise InputError(f"{out} is the file that came in; choose another one to write")
    if not os.path.lexists(out):
        return
    if out.is_symlink():
        raise InputError(f"{out} is a link; give the file itself")
    if out.is_dir() != (format == "orbax"):
        kind, wanted = ("folder", "file") if out.is_dir() else ("file", "folder")
        raise InputError(f"{out} is a {kind}, and {format} is written as a {wanted}; choose another one to write")
    if not overwrite:
        raise InputError(f"{out} exists; choose another one to write, or add --overwrite")
    if out.is_dir() and (foreign := _foreign(out)):
        raise InputError(f"{out} holds {foreign}, so it is no Orbax folder; choose another one to write, or remove it")


def export_program(model: Model, out: Path, format: str, image_shape: tuple[int, ...]) -> Export:
    """Writes the program of a model, 'stablehlo' or 'onnx'. Raises as `export`."""
    with plain_convolutions():
        program = program_of(model, image_shape)
        content, run, detail = (_stablehlo if format == "stablehlo" else _onnx)(model, program)
        difference = check_logits(run, program, model.forgotten, f"the {format} program")
    _make_parent(out)
    write_bytes(out, content)
    return Export(
        out,
        format,
        difference=difference,
        detail=", ".join(filter(None, [detail, f"images {program.layout}", program.detail])),
    )


def export_weights(
    model: Model,
    out: Path,
    format: str,
    entries: Mapping[str, Any],
    source: weight_entries.Source | None,
    *,
    overwrite: bool,
) -> Export:
    """Writes `entries`, the weights of a model. Raises as `export`."""
    _make_parent(out)
    changes = None if source is None else weight_entries.changes_of(entries, source)
    changed = None if changes is None else len(changes)
    if source is not None and source.file.format == format:
        weight_entries.write_again(out, source, changes or {}, overwrite=overwrite)
        beside = weight_files.others(source.path, source.keys.values()) if changes else ()
        return Export(out, format, len(source.file.arrays), changed, beside=beside)
    weight_entries.write_new(out, format, entries, metadata_of(model), overwrite=overwrite)
    return Export(out, format, len(entries), changed)


def metadata_of(model: Model) -> dict[str, str]:
    """Information for readers of the file, as JSON texts by name."""
    return {
        "class_names": json.dumps(model.class_names),
        "forgotten": json.dumps([model.class_names[number] for number in model.forgotten]),
        "mean": json.dumps(model.mean),
        "std": json.dumps(model.std),
        "osp_jax": version("osp_jax"),
    }


_Logits = Callable[[Any], Any]


def _stablehlo(model: Model, program: Program) -> tuple[bytes, _Logits, str]:
    """(content, its logits, a description)."""
    content, platforms = serialised(program)
    left_out = [name for name in PLATFORMS if name not in platforms]
    return (
        content,
        loaded(content),
        f"for {', '.join(platforms)}" + (f" (not for {', '.join(left_out)})" if left_out else ""),
    )


def _onnx(model: Model, program: Program) -> tuple[bytes, _Logits, str]:
    from osp_jax.exports import onnx

    content = onnx.onnx_bytes(program, metadata_of(model) | {"layout": program.layout})
    return content, onnx.session(content), f"opset {onnx.OPSET}"


def _make_parent(out: Path) -> None:
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise InputError(f"{out.parent} is a file; choose another place for {shown(out.name)}") from error


def _foreign(folder: Path) -> str:
    """The name of a file in a folder that Orbax did not write."""
    names = {entry for entry in os.listdir(folder) if not is_temporary(entry)}
    if not names or names & {"_METADATA", "_CHECKPOINT_METADATA", "checkpoint"}:
        return ""
    return min(names)
