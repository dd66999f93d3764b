"""Makes a trained model forget classes; exits with code 3 where that would harm the model.

python -m experiments.unlearn --workdir=runs/digits --forget=3 --method=osp-fit --out=runs/without_3

A request that experiments.prepare computed with the same method and settings is looked up.
"""

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli

_WORKDIR = cli.folder_flag("workdir", "the trained model", required=True)
_FORGET = flags.DEFINE_string("forget", None, "classes to forget, by number or name: 3,5 or cat,dog")
_IMAGES = cli.path_flag(
    "images", "a text file with numbers of training images to forget, in place of --forget; for exact-head"
)
flags.register_multi_flags_validator(
    ["forget", "images"],
    lambda given: (given["forget"] is None) != (given["images"] is None),
    "give --forget, the classes to forget, or --images",
)
_METHOD = cli.method_flags()
_OUT = cli.folder_flag("out", "where the new model is written", required=True)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace what is in --out")
_TIME = flags.DEFINE_bool("time", False, "also repeat the request, to measure its time once it is compiled")
_ACCEPT = flags.DEFINE_bool("accept", False, "write the new model even where it harms the other classes")
_DROP = flags.DEFINE_float(
    "max_retained_drop", 2.0, "points that the accuracy on the other classes may fall", 0.0, 100.0
)
_FORGOTTEN = flags.DEFINE_float(
    "max_forgotten", 1.0, "percentage of the examples to forget that may still be recognised", 0.0, 100.0
)
_PREPARED = flags.DEFINE_bool("prepared", True, "use a request that experiments.prepare computed, where there is one")
_KEEP = flags.DEFINE_bool(
    "keep_prepared",
    False,
    "keep the prepared requests for these classes in --workdir; they hold information about the classes",
)


def main() -> None:
    import jax

    from osp_jax import statistics_files
    from osp_jax.data.splits import check_forget, parse_classes
    from osp_jax.harm import check_harm, check_limits, harm_record, harm_words, methods_to_try
    from osp_jax.interop.stored_network import keep_stored_weights
    from osp_jax.loading import dataset_of, load_workdir, network_to_keep, statistics_of, stored_statistics
    from osp_jax.methods.parts.request import describe_change, earlier_requests, images_seen, timed_request
    from osp_jax.prepared.classes import request_settings
    from osp_jax.prepared.files import FOLDER as PREPARED
    from osp_jax.prepared.files import load_prepared
    from osp_jax.prepared.requests import answer_from, prepared_record
    from osp_jax.ridge.files import FOLDER, save_moments
    from osp_jax.runtime.overwriting import check_out
    from osp_jax.runtime.provenance import provenance
    from osp_jax.runtime.workdir import check_writable, keep_tokenizer, read_request, replacing, write_json, write_text
    from osp_jax.training import checkpoints as checkpoint
    from osp_jax.workdir_requests import check_recipe, harm_of_request, request_input

    workdir, out = Path(_WORKDIR.value), Path(_OUT.value)
    method = _METHOD.parsed()
    limits = {"max_retained_drop": _DROP.value, "max_forgotten": _FORGOTTEN.value}
    check_limits(**limits)
    check_out(out, workdir, _OVERWRITE.value)
    trained = load_workdir(workdir)
    if _IMAGES.value is not None:
        _forget_images(trained, workdir, out, method)
        return
    model, names = trained.model, trained.model.class_names
    forget = parse_classes(_FORGET.value, names)
    check_forget(forget, len(names), model.forgotten, names)
    check_recipe(trained, method, _METHOD.name.value)

    stored = (workdir / "statistics").exists()
    dataset = None if stored else dataset_of(trained, _METHOD.data_dir.value)
    start = time.perf_counter()
    statistics = stored_statistics(trained, workdir) if stored else statistics_of(trained, dataset)
    statistics = statistics.without(model.forgotten)
    jax.block_until_ready(statistics)
    seconds = time.perf_counter() - start
    budget = _METHOD.budget()

    def images() -> Any:
        nonlocal dataset
        dataset = dataset or dataset_of(trained, _METHOD.data_dir.value)
        return dataset

    calls = 100 if _TIME.value else 0
    start = time.perf_counter()
    prepared = found = data = None
    if _PREPARED.value:
        settings = request_settings(method, budget, _METHOD.seed.value)
        prepared = load_prepared(workdir, method, settings, model, forget, statistics)
    if prepared:
        lookup = time.perf_counter() - start
        found = answer_from(prepared, model, forget, statistics, None if _ACCEPT.value else limits, warm_calls=calls)
    if found:
        outcome, harm = found.outcome, found.harm
        seconds = lookup + (seconds if len(forget) > 1 else 0.0)  # one class needs no statistics
    else:
        data = request_input(trained, method, forget, statistics, images, budget)
        rng = jax.random.key(_METHOD.seed.value)
        outcome = timed_request(method, model, forget, statistics, rng, data=data, warm_calls=calls)
        harm = None
    variables = outcome.model.variables
    if harm is None:
        read = images if dataset or not _ACCEPT.value else None  # the images need not be available
        harm = harm_of_request(trained, outcome.model, forget, statistics, read, accept=_ACCEPT.value)
    if harm is not None and not _ACCEPT.value:
        check_harm(harm, **limits, suggestions=methods_to_try(model, statistics, _METHOD.name.value))
    before = read_request(workdir) or {}
    forgotten = sorted({*trained.record.get("forgotten", ()), *forget})
    record = {
        "method": _METHOD.name.value,
        "options": dataclasses.asdict(method),
        "forget": list(forget),
        "forget_names": [names[c] for c in forget],
        "forgotten": forgotten,
        "original": str(workdir),
        "trained": before.get("trained") or before.get("original") or str(workdir),
        "earlier": earlier_requests(before),
        "seconds": {
            "statistics": seconds,
            "compile": outcome.cold - outcome.warm_median if _TIME.value else None,
            "cold": seconds + outcome.cold,
            "warm_median": outcome.warm_median,
            "warm_p95": outcome.warm_p95,
        },
        "budget": budget,
        "data_seen": {
            "request": {"train": data.seen() if data else {}},
            "statistics": {"train": images_seen(statistics)},
        },
        "statistics_stored": stored,
        "prepared": prepared_record(prepared, found, forget) if found else None,
        **(found.description if found else describe_change(model, outcome.model, forget, statistics, method)),
        "harm": harm_record(harm, **limits, accepted=_ACCEPT.value),
        "provenance": provenance(_METHOD.seed.value),
    }
    size = sum(leaf.nbytes for leaf in jax.tree.leaves((variables, statistics)))
    check_writable(out.parent, 2 * size)
    with replacing(out, before=lambda: check_out(out, workdir, _OVERWRITE.value)) as folder:
        write_json(folder / "config.json", {**trained.record, "forgotten": forgotten})
        if (workdir / "metrics.jsonl").exists():
            write_text(folder / "metrics.jsonl", (workdir / "metrics.jsonl").read_text(encoding="utf-8"))
        checkpoint.save_variables(folder, variables)
        keep_tokenizer(workdir, folder)
        if network_to_keep(trained.record):
            keep_stored_weights(workdir, folder)
        if not method.sees:  # masks leave the statistics valid; a network that was trained further needs new ones
            statistics_files.save_statistics(folder / "statistics", statistics.without(forgotten))
        if statistics.head is not None:
            save_moments(folder / FOLDER, statistics.head.without(forgotten).with_prepared())
        write_json(folder / "unlearn.json", record)
    if not _KEEP.value:
        _remove_prepared(workdir, forget)
    times = f"{record['seconds']['cold'] * 1e3:.0f} ms"
    if _TIME.value:
        times = f"cold {times}, warm {outcome.warm_median * 1e3:.2f} ms (median)"
    how = f"{_METHOD.name.value}, {_WAYS[found.way]}" if found else _METHOD.name.value
    print(f"forgot {', '.join(record['forget_names'])} by {how}: {times}; written to {out}")
    if found and (workdir / PREPARED).is_dir():
        print(f"prepare the other classes again, for the new model: python -m experiments.prepare --workdir={out}")
    if harm is None:
        print("accepted without an estimate of the harm, which the statistics do not give")
    elif not harm.within(**limits):
        print(f"accepted: {harm_words(harm, **limits)}")


def _forget_images(trained: Any, workdir: Path, out: Path, method: Any) -> None:
    from osp_jax import image_request
    from osp_jax.runtime.errors import InputError

    if _METHOD.name.value != "exact-head":
        raise InputError(
            f"{_METHOD.name.value} forgets whole classes; give --forget, or --images with --method=exact-head"
        )
    numbers = image_request.read_numbers(Path(_IMAGES.value))
    seconds = image_request.forget(trained, workdir, out, numbers, dataclasses.asdict(method))
    print(f"forgot {len(numbers):,} training examples by exact-head: {seconds * 1e3:.0f} ms; written to {out}")


_WAYS = {"alone": "prepared", "composed": "composed of prepared requests"}


def _remove_prepared(workdir: Path, forget: tuple[int, ...]) -> None:
    """Removes the prepared requests for the forgotten classes, which hold information about them."""
    from osp_jax.prepared.files import discard_prepared

    try:
        discard_prepared(workdir, forget)
    except OSError as error:
        print(
            f"warning: the prepared requests for these classes stay in {workdir} ({error.strerror}); remove them",
            file=sys.stderr,
        )


if __name__ == "__main__":
    cli.run(main, several=True)
