"""Protects files: a command replaces only its own results, and nothing that its input depends on."""

import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from osp_jax.runtime.errors import InputError
from osp_jax.runtime.integrity import SUMS, files_in, read_sums
from osp_jax.runtime.records import IMPORTED
from osp_jax.runtime.replacing import is_temporary, remove_leftovers

# An unlearned workdir of a version without SHA256SUMS.
_OLD = {"config.json", "metrics.jsonl", "unlearn.json", "checkpoints", "statistics"}
_OLD_EVALUATION = {"eval.json", "report.md", "report.html"}


def check_out(out: Path, workdir: Path, overwrite: bool) -> None:
    """Checks that `experiments.unlearn` can write its result to `out` without destroying other files.

    With `overwrite`, `out` may be an unlearned workdir: its `SHA256SUMS` lists `unlearn.json`, and every file in it is
    listed. One of an older version must hold exactly the files of an unlearned workdir.

    Raises:
      InputError: `out` is a link or a file, is `workdir` or contains it or lies in it, exists without `overwrite`, or
        holds other files.
    """
    if out.is_symlink():
        raise InputError(f"{out} is a link; give the folder itself as --out")
    place, source = out.resolve(), workdir.resolve()
    if place == source:
        raise InputError(f"{out} is the model that --workdir names; choose another --out")
    if source.is_relative_to(place):
        raise InputError(f"{out} holds {workdir}; choose another --out")
    if place.is_relative_to(source):
        raise InputError(f"{out} lies in {workdir}; choose an --out outside of it")
    if place.parent.is_dir():
        remove_leftovers(place)
    if not out.exists():
        return
    if not overwrite:
        raise InputError(f"{out} exists; choose another --out or add --overwrite")
    if not out.is_dir():
        raise InputError(f"{out} is not a folder; choose another --out")
    foreign = _foreign(out)
    if foreign:
        raise InputError(
            f"--overwrite replaces an unlearned model only, but {out} {foreign}; choose another --out, or remove it"
        )


def check_import(workdir: Path, sources: Sequence[Path], overwrite: bool) -> None:
    """Checks that `experiments.import_model` can write to `workdir` without destroying other files.

    With `overwrite`, `workdir` may be an imported workdir: its `SHA256SUMS` lists weights in `imported/`, no
    `unlearn.json`, and every file in it.

    Args:
      sources: inputs of the import; none may lie in `workdir`.

    Raises:
      InputError: `workdir` is a link or a file, exists without `overwrite`, or holds other files.
    """
    remedy = "choose another --workdir"
    if workdir.is_symlink():
        raise InputError(f"{workdir} is a link; give the folder itself as --workdir")
    place = workdir.resolve()
    for source in sources:
        if source.resolve().is_relative_to(place):
            raise InputError(f"{workdir} holds {source}; {remedy}")
        if place.is_relative_to(source.resolve()):
            raise InputError(f"{workdir} lies in {source}; {remedy}")
    if place.parent.is_dir():
        remove_leftovers(place)
    if not workdir.exists():
        return
    if not workdir.is_dir():
        raise InputError(f"{workdir} is not a folder; {remedy}")
    if not any(not is_temporary(entry.name) for entry in os.scandir(workdir)):
        return
    if not overwrite:
        raise InputError(f"{workdir} exists; {remedy} or add --overwrite")
    sums = read_sums(workdir, f"remove it yourself, or {remedy}") or {}
    imported = any(name.startswith(f"{IMPORTED}/") for name in sums) and "unlearn.json" not in sums
    foreign = _unlisted(workdir, sums) if imported else "is not one"
    if foreign:
        raise InputError(
            f"--overwrite replaces an imported model only, but {workdir} {foreign}; {remedy}, or remove it"
        )


def _foreign(out: Path) -> str | None:
    """The reason why `out` is not an unlearned workdir or holds other files; None if it is one, or an empty folder."""
    entries = {entry.name for entry in os.scandir(out) if not is_temporary(entry.name)}
    if not entries:
        return None
    sums = read_sums(out, "remove it yourself, or choose another --out")
    if sums is None:
        if extra := sorted(entries - _OLD - _OLD_EVALUATION):
            return f"holds {extra[0]}"
        if missing := sorted({"config.json", "unlearn.json", "checkpoints"} - entries):
            return f"lacks {missing[0]}"
        if extra := sorted(set(os.listdir(out / "checkpoints")) - {"0"}):
            return f"holds checkpoints/{extra[0]}"
        return next((f"holds the link {path.name}" for path in out.rglob("*") if path.is_symlink()), None)
    return _unlisted(out, sums) if "unlearn.json" in sums else "is not one"


def _unlisted(out: Path, sums: Collection[str]) -> str | None:
    """The reason why `out` is refused: a file that neither `sums` nor the `SHA256SUMS` of a subfolder lists."""
    for name in files_in(out):
        if name not in sums:
            return f"holds {name}, which is not listed in {SUMS}"
        if name.endswith(f"/{SUMS}"):
            folder = (out / name).parent
            listed = read_sums(folder, "remove it yourself, or choose another folder") or {}
            if extra := next((inner for inner in files_in(folder) if inner not in listed), None):
                return f"holds {folder.relative_to(out) / extra}, which is not listed in {SUMS}"
    return None


def check_results(folder: Path, names: Sequence[str], overwrite: bool = True) -> None:
    """Checks that the files `names`, of which the first is the JSON record of the results, can be written to `folder`.

    Raises:
      InputError: one exists and is neither listed in the `SHA256SUMS` of `folder` nor next to results of an older
        version; one is not a file; or results exist, and `overwrite` is not set.
    """
    if folder.is_dir():
        remove_leftovers(folder.resolve())
    existing = [name for name in names if os.path.lexists(folder / name)]
    if not existing:
        return
    for name in existing:
        if (folder / name).is_symlink() or not (folder / name).is_file():
            raise InputError(f"{folder / name} is not a file; move it away or choose another folder")
    listed = read_sums(folder, "remove it, or choose another folder") or {}
    unlisted = [name for name in existing if name not in listed]
    if unlisted and not _is_old_result(folder / names[0]):
        raise InputError(
            f"{folder / unlisted[0]} was not written by this command; move it away or choose another folder"
        )
    if not overwrite:
        raise InputError(f"{folder / existing[0]} exists; choose another --out or add --overwrite")


def check_unfinished(folder: Path) -> None:
    """Checks that `folder`, a temporary folder of a command, is new, empty, or was created by such a command.

    Raises:
      InputError: it is not empty and lacks the `config.json` that such a command writes first.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError(f"{folder} is not a folder; move it away or choose another --out")
    if folder.is_dir() and not (folder / "config.json").exists():
        found = next((name for name in sorted(os.listdir(folder)) if not is_temporary(name)), None)
        if found:
            raise InputError(f"{folder} holds {found} of another command; move it away or choose another --out")


def _is_old_result(path: Path) -> bool:
    """Whether a file holds results of any version, all of which name their data set."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "dataset" in content
