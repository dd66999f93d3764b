"""Evaluates an unlearned model beside its original and its references, and writes the report.

python -m experiments.eval --workdir=runs/without_3 --reference=runs/retrained
python -m experiments.eval --workdir=runs/without_3 --reference=runs/retrained --audit=full --shadows=runs/shadows

Repeat --workdir to evaluate several models of the same request; the other two models are then evaluated once.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli

_WORKDIR = cli.folder_flag(
    "workdir",
    "what experiments.unlearn (or train) wrote; may be repeated for the same request",
    required=True,
    several=True,
)
_REFERENCE = cli.folder_flag("reference", "a model trained without the forgotten classes, to compare with")
_ORIGINAL = cli.folder_flag("original", "the original model, if it is not at the recorded place")
_AUDIT = flags.DEFINE_enum(
    "audit",
    "quick",
    ["none", "quick", "full"],
    "how much is asked beside accuracy; full needs --reference and --shadows",
)
_SHADOWS = cli.folder_flag("shadows", "what experiments.shadows wrote, for the likelihood-ratio attacks")
_DRAWS = flags.DEFINE_integer(
    "draws",
    None,
    "random draws of examples, for each of which relearning is repeated; none: that of the audit level",
    lower_bound=1,
    upper_bound=1000,
)
_DATA_DIR = cli.data_dir_flag()


def main() -> None:
    import numpy as np

    from osp_jax.audit.accuracy import accuracy_report, without_logits
    from osp_jax.data.splits import without_classes
    from osp_jax.forward import predict_logits
    from osp_jax.loading import TrainedModel, dataset_of, indices_of, load_workdir, record_for_report
    from osp_jax.report.page import report_html, report_markdown
    from osp_jax.runtime.overwriting import check_results
    from osp_jax.runtime.provenance import provenance
    from osp_jax.runtime.workdir import EVALUATION, adding, write_json, write_text

    folders = [Path(name) for name in dict.fromkeys(_WORKDIR.value)]
    requests = [_request(folder) for folder in folders]
    _check_same(folders, requests)
    # Names that no other model has.
    names = [
        f"{request['method'] if request else 'model'} in {f}" for f, request in zip(folders, requests, strict=True)
    ]
    for folder in folders:
        check_results(folder, EVALUATION)
    trained = {name: load_workdir(folder, unread=EVALUATION) for name, folder in zip(names, folders, strict=True)}
    first, unlearn = trained[names[0]], requests[0]
    forget = _forgotten(unlearn)
    models = {"original": _original(unlearn, forget) if unlearn else first}
    if unlearn:
        models |= trained
    if _REFERENCE.value:
        models["retrained"] = _reference(models["original"], forget)
    full = unlearn and _AUDIT.value == "full"
    if full:
        _check_full(unlearn, imported=bool(first.record.get("network")))

    dataset = dataset_of(first, _DATA_DIR.value)
    # With the forgotten images: the retrained model is evaluated on them, too.
    train, _ = indices_of(models["original"], dataset)
    test = without_classes(dataset.test.labels, models["original"].model.forgotten)
    shadows = _shadows(models["original"], dataset, train, dict(zip(names, requests, strict=True))) if full else None

    def answers(trained: TrainedModel) -> list[tuple[np.ndarray, np.ndarray]]:
        splits = ((dataset.train, train), (dataset.test, test))
        return [(predict_logits(trained.model, split, indices), split.labels[indices]) for split, indices in splits]

    results = {name: answers(model) for name, model in models.items()}
    if forget:
        results["logit_masked"] = [(without_logits(logits, forget), labels) for logits, labels in results["original"]]
    reports = {name: accuracy_report(*splits, forget) for name, splits in results.items()}
    audited, record = (
        _audit(models, dataset, train, forget, shadows, results) if forget and _AUDIT.value != "none" else ({}, None)
    )
    evaluations = {}
    for name, folder, request in zip(names, folders, requests, strict=True):
        # A page is about one model; the other unlearned models have their own.
        shown = {"unlearned" if key == name else key: key for key in reports if key == name or key not in names}
        evaluations[folder] = {
            **record_for_report(trained[name]),
            "forget": list(forget),
            "method": request["method"] if request else None,
            **{label: reports[key] | audited.get(key, {}) for label, key in shown.items()},
            "audit": record,
            "channels": request["channels"] if request else {},
            "unlearn": {key: value for key, value in request.items() if key != "channels"} if request else None,
            "provenance": provenance(trained[name].record["config"]["seed"]),
        }
    with ExitStack() as stack:
        for folder, evaluation in evaluations.items():
            content = stack.enter_context(adding(folder, EVALUATION))
            write_json(content / "eval.json", evaluation)
            write_text(content / "report.md", report_markdown(evaluation))
            write_text(content / "report.html", report_html(evaluation))
    for folder in folders:
        print(f"evaluated: {folder / 'eval.json'}, {folder / 'report.md'}, {folder / 'report.html'}")


def _request(workdir: Path) -> dict[str, Any] | None:
    """The record that `experiments.unlearn` wrote; None for a trained model."""
    from osp_jax.methods import get_method
    from osp_jax.runtime.workdir import read_request

    request = read_request(workdir)
    if request:
        get_method(request["method"])
    return request


def _forgotten(request: dict[str, Any] | None) -> tuple[int, ...]:
    """All classes that a model was made to forget, by this request and earlier ones."""
    return tuple(request.get("forgotten") or request["forget"]) if request else ()


def _trained(request: dict[str, Any]) -> str:
    """The workdir of the trained network, before all requests."""
    return request.get("trained") or request["original"]


def _original(request: dict[str, Any], forget: tuple[int, ...]) -> Any:
    from osp_jax.loading import load_workdir
    from osp_jax.runtime.errors import InputError

    folder = Path(_ORIGINAL.value or _trained(request))
    original = load_workdir(folder)
    if gone := set(original.model.forgotten) & set(forget):
        names = ", ".join(original.record["dataset"]["class_names"][c] for c in sorted(gone))
        raise InputError(f"{folder} does not know {names} either; give the network before all requests as --original")
    return original


def _check_same(folders: list[Path], requests: list[dict[str, Any] | None]) -> None:
    from osp_jax.runtime.errors import InputError

    asked = [request and (_forgotten(request), _trained(request)) for request in requests]
    for folder, request in zip(folders[1:], asked[1:], strict=True):
        if request is None or request != asked[0]:
            raise InputError(
                f"{folders[0]} and {folder} were not both made to forget the same classes of the same original; "
                "evaluate them one by one"
            )


def _reference(original: Any, forget: tuple[int, ...]) -> Any:
    """The retrained model; it must differ from the original in the classes that it saw, and in nothing else."""
    from osp_jax.data.splits import parse_classes
    from osp_jax.loading import load_workdir, same_network
    from osp_jax.runtime.errors import InputError

    reference = load_workdir(Path(_REFERENCE.value))
    mine, its = original.record, reference.record
    excluded = parse_classes(its["config"]["data"]["exclude"], mine["dataset"]["class_names"])
    wanted = tuple(sorted({*forget, *original.model.forgotten}))
    imported = bool(mine.get("network"))
    if its["dataset"]["name"] != mine["dataset"]["name"] or excluded != wanted:
        classes = ",".join(map(str, wanted))
        remedy = f"imported with --exclude={classes}" if imported else f"trained with --config.data.exclude={classes}"
        raise InputError(
            f"{_REFERENCE.value} was trained on {its['dataset']['name']} without classes {list(excluded)}; "
            f"give one {remedy}"
        )
    if not same_network(original, reference):
        remedy = "imported with the same --network" if imported else "trained with the same config.model"
        raise InputError(
            f"{_REFERENCE.value} is another network ({_words(its)}) than {_WORKDIR.value[0]} ({_words(mine)}); "
            f"give one {remedy}"
        )
    return reference


def _check_full(unlearn: dict[str, Any], *, imported: bool) -> None:
    from osp_jax.runtime.errors import InputError

    classes = ",".join(map(str, _forgotten(unlearn)))
    if not _REFERENCE.value:
        remedy = (
            f"train one without {classes} in its own framework, import it with --exclude={classes}"
            if imported
            else f"train one with experiments.train --config.data.exclude={classes}"
        )
        raise InputError(
            f"a full audit compares with a retrained model; {remedy} and give it as --reference, or use --audit=quick"
        )
    if not _SHADOWS.value:
        raise InputError(
            f"a full audit needs shadow models; train them: python -m experiments.shadows "
            f"--workdir={_trained(unlearn)} --forget={classes} --out=SHADOWS, and add --shadows=SHADOWS, "
            "or use --audit=quick"
        )


def _shadows(original: Any, dataset: Any, train: Any, requests: dict[str, dict[str, Any]]) -> Any:
    from ml_collections import ConfigDict

    from osp_jax.audit.lira import check_halves
    from osp_jax.audit.shadow.pool import shadow_pool
    from osp_jax.audit.shadow.sets import find_shadows
    from osp_jax.audit.shadow.statistics import ShadowRequest, ShadowSets
    from osp_jax.loading import shadowed_network
    from osp_jax.methods import parse_options

    config, pool = ConfigDict(original.record["config"]), shadow_pool(dataset, train)
    forget = _forgotten(next(iter(requests.values())))
    network = shadowed_network(original)
    sets = find_shadows(config, pool, dataset.num_classes, Path(_SHADOWS.value), forget, network)
    check_halves(len(sets[0].keep))  # before the other questions, which take minutes

    def shadow_request(request: dict[str, Any]) -> ShadowRequest:
        given = [f"{option}={value}" for option, value in request["options"].items()]
        method = parse_options(request["method"], given)
        earlier = tuple(map(shadow_request, request.get("earlier") or []))
        return ShadowRequest(method, tuple(request["forget"]), request.get("budget", {}), earlier)

    return ShadowSets(*sets, {name: shadow_request(request) for name, request in requests.items()})


def _audit(
    models: Any, dataset: Any, train: Any, forget: tuple[int, ...], shadows: Any, answers: Any
) -> tuple[dict, dict]:
    """(measures and curves by model, the record of the audit)"""
    from osp_jax.audit.run import LEVELS, audit, pieces, settings_of
    from osp_jax.audit.subject import images_of
    from osp_jax.loading import subject_of
    from osp_jax.training.progress import terminal_bar

    level = LEVELS[_AUDIT.value]
    if _DRAWS.value:
        level = level._replace(relearning=level.relearning._replace(draws=_DRAWS.value))
    images = images_of(dataset, train, forget, level.images, seed=0)
    subjects = {name: subject_of(model) for name, model in models.items()}
    with terminal_bar("audit", 0, pieces(subjects, shadows)) as (progress, task):

        def on_work(text: str) -> None:
            progress.update(task, advance=1, text=text)

        found, seconds = audit(subjects, images, level, shadows, on_work, answers)
    record = {
        "level": _AUDIT.value,
        "models": len(subjects),
        "seconds": seconds,
        "settings": settings_of(level, shadows),
    }
    return found, record


def _words(record: dict[str, Any]) -> str:
    if network := record.get("network"):
        return f"{network['function']} of {network['file']}"
    return ", ".join(f"{name} {value}" for name, value in record["config"]["model"].items())


if __name__ == "__main__":
    cli.run(main, several=True)
