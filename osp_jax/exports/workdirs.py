"""Exports the model of a workdir to a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from osp_jax.exports import weights as weight_entries
from osp_jax.exports.export import PROGRAMS, Export, check_place, export_program, export_weights, named_format
from osp_jax.loading import load_workdir
from osp_jax.runtime.errors import InputError

_TRAINED = "safetensors"  # the default format without an original file


def export_workdir(workdir: Path, out: Path, format: str = "", *, overwrite: bool = False) -> Export:
    """Exports the model of a workdir as `osp_jax.export` does; an imported workdir provides its original file.

    Args:
      format: empty: by the suffix of `out`, else that of the original file, or 'safetensors' for a network trained by
        `experiments.train`.

    Raises:
      InputError: as `load_workdir` and `osp_jax.export`; or `out` lies in `workdir`.
    """
    if out.resolve().is_relative_to(workdir.resolve()):
        raise InputError(f"{out} lies in {workdir}; choose an --out outside of it")
    format = named_format(out, format)
    if format:
        check_place(out, format, overwrite, None)
    trained = load_workdir(workdir)
    came_in = (trained.record.get("network") or {}).get("weights")
    if not format:
        format = came_in["format"] if came_in else _TRAINED
        check_place(out, format, overwrite, None)
    if format in PROGRAMS:
        return export_program(trained.model, out, format, tuple(trained.record["dataset"]["image_shape"]))
    entries = weight_entries.entries_of(trained.model)
    source = _source(workdir, came_in, entries) if came_in else None
    return export_weights(trained.model, out, format, entries, source, overwrite=overwrite)


def _source(workdir: Path, came_in: Mapping[str, Any], entries: Mapping[str, Any]) -> weight_entries.Source:
    return weight_entries.source_of(workdir / came_in["file"], entries, came_in["keys"])
