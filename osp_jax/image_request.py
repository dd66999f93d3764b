"""`experiments.unlearn --images=FILE`: makes a closed-form head forget single training images."""

import hashlib
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from osp_jax.head_fit import forget_images
from osp_jax.interop.stored_network import keep_stored_weights
from osp_jax.loading import network_to_keep, stored_statistics
from osp_jax.methods.parts.request import describe_change, earlier_requests, images_seen
from osp_jax.ridge.files import FOLDER, save_moments
from osp_jax.ridge.network import check_ridge_head
from osp_jax.runtime.errors import InputError, shown
from osp_jax.runtime.provenance import provenance
from osp_jax.runtime.workdir import check_writable, keep_tokenizer, read_request, replacing, write_json
from osp_jax.statistics_files import save_statistics
from osp_jax.training.checkpoints import save_variables


def read_numbers(path: Path) -> list[int]:
    """Reads image numbers, separated by white space or commas, from a text file.

    Raises:
      InputError: the file cannot be read, or holds anything else.
    """
    try:
        words = re.split(r"[\s,]+", path.read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise InputError(f"--images={path} cannot be read ({reason}); give a text file of image numbers") from error
    if wrong := [word for word in words if not word.isdecimal() or len(word) > 12]:
        raise InputError(f"{path} holds {shown(wrong[0])}; give numbers of training images, from 0, one a line")
    return [int(word) for word in words]


def forget(trained: Any, workdir: Path, out: Path, numbers: Sequence[int], options: dict[str, Any]) -> float:
    """Writes the fit of `workdir` without the images `numbers` to `out`; returns the seconds taken."""
    check_ridge_head(trained.model)
    start = time.perf_counter()
    statistics = stored_statistics(trained, workdir)
    read = time.perf_counter() - start
    new, kept = forget_images(trained.model, statistics, numbers)
    seconds = time.perf_counter() - start
    before, record = read_request(workdir) or {}, trained.record
    digest = hashlib.sha256(" ".join(map(str, sorted(numbers))).encode()).hexdigest()
    request = {
        "method": "exact-head",
        "options": options,
        "forget": [],
        "forget_names": [],
        "images": {"count": len(numbers), "sha256": digest},
        "forgotten": sorted(record.get("forgotten", ())),
        "original": str(workdir),
        "trained": before.get("trained") or before.get("original") or str(workdir),
        "earlier": earlier_requests(before),
        "seconds": {"statistics": read, "cold": seconds},
        "budget": {"retain_per_class": None, "forget_per_class": None},
        "data_seen": {"request": {"train": {}}, "statistics": {"train": images_seen(statistics)}},
        "statistics_stored": True,
        **describe_change(trained.model, new, (), statistics),
        "harm": None,
        "provenance": provenance(0),
    }
    gone = sorted({*record.get("forgotten_images", ()), *numbers})
    check_writable(out.resolve().parent, sum(path.stat().st_size for path in workdir.rglob("*") if path.is_file()))
    with replacing(out) as folder:
        write_json(folder / "config.json", {**record, "forgotten_images": gone})
        save_variables(folder, new.variables)
        save_statistics(folder / "statistics", kept)
        save_moments(folder / FOLDER, kept.head)
        keep_tokenizer(workdir, folder)
        if network_to_keep(record):
            keep_stored_weights(workdir, folder)
        write_json(folder / "unlearn.json", request)
    return seconds
