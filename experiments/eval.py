"""Evaluates an unlearned model beside its original, the trivial reference and a retrained one, and writes the report.

python -m experiments.eval --workdir=runs/without_3 --reference=runs/retrained
python -m experiments.eval --workdir=runs/without_3 --reference=runs/retrained --audit=full --shadows=runs/shadows
"""

import time
from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "what experiments.unlearn (or train) wrote", required=True)
_REFERENCE = flags.DEFINE_string("reference", None, "a model trained without the forgotten classes, to compare with")
_ORIGINAL = flags.DEFINE_string("original", None, "the model before, where it is not at the recorded place any more")
_AUDIT = flags.DEFINE_enum(
    "audit",
    "quick",
    ["none", "quick", "full"],
    "how much is asked beside accuracy; full needs --reference and --shadows",
)
_SHADOWS = flags.DEFINE_string("shadows", None, "what experiments.shadows wrote, for the likelihood-ratio attacks")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "the TFDS folder, where it is not at the recorded place any more")


def main() -> None:
    import numpy as np

    from osp_jax.audit.accuracy import accuracy_report, without_logits
    from osp_jax.forward import predict_logits
    from osp_jax.loading import dataset_of, indices_of, moments_of, record_for_report
    from osp_jax.provenance import provenance
    from osp_jax.report.page import report_html, report_markdown
    from osp_jax.workdir import TrainedModel, load_workdir, read_json, write_json, write_text

    workdir = Path(_WORKDIR.value)
    trained = load_workdir(workdir)
    unlearn = read_json(workdir / "unlearn.json") if (workdir / "unlearn.json").exists() else None
    forget = tuple(unlearn["forget"]) if unlearn else ()
    models = {"original": load_workdir(Path(_ORIGINAL.value or unlearn["original"])) if unlearn else trained}
    if unlearn:
        models["unlearned"] = trained
    if _REFERENCE.value:
        models["retrained"] = _reference(trained, forget)
    if unlearn and _AUDIT.value == "full":
        _check_full(unlearn)

    dataset = dataset_of(trained, _DATA_DIR.value)
    # Forgotten images too: what the retrained model was not shown is still asked of it.
    train, _ = indices_of(models["original"], dataset)
    test = np.arange(len(dataset.test.labels))
    shadows = _shadows(models["original"], dataset, train, forget) if unlearn and _AUDIT.value == "full" else ()

    def answers(model: TrainedModel) -> list[tuple[np.ndarray, np.ndarray]]:
        splits = ((dataset.train, train), (dataset.test, test))
        return [
            (predict_logits(model.model, model.variables, split, indices, **moments_of(model)), split.labels[indices])
            for split, indices in splits
        ]

    results = {name: answers(model) for name, model in models.items()}
    if forget:
        results["logit_masked"] = [(without_logits(logits, forget), labels) for logits, labels in results["original"]]
    reports = {name: accuracy_report(*splits, forget) for name, splits in results.items()}
    audited, record = (
        _audit(models, dataset, train, unlearn, shadows) if unlearn and _AUDIT.value != "none" else ({}, None)
    )
    evaluation = {
        **record_for_report(trained),
        "forget": list(forget),
        "method": unlearn["method"] if unlearn else None,
        **{name: report | audited.get(name, {}) for name, report in reports.items()},
        "audit": record,
        "channels": unlearn["channels"] if unlearn else {},
        "unlearn": {key: value for key, value in unlearn.items() if key != "channels"} if unlearn else None,
        "provenance": provenance(trained.record["config"]["seed"]),
    }
    write_json(workdir / "eval.json", evaluation)
    write_text(workdir / "report.md", report_markdown(evaluation))
    write_text(workdir / "report.html", report_html(evaluation))
    print(f"evaluated: {workdir / 'eval.json'}, {workdir / 'report.md'}, {workdir / 'report.html'}")


def _reference(trained: Any, forget: tuple[int, ...]) -> Any:
    """The retrained model; it must differ from the original in the classes that it saw, and in nothing else."""
    from osp_jax.data.splits import parse_classes
    from osp_jax.errors import InputError
    from osp_jax.workdir import load_workdir

    reference = load_workdir(Path(_REFERENCE.value))
    mine, its = trained.record, reference.record
    excluded = parse_classes(its["config"]["data"]["exclude"], mine["dataset"]["class_names"])
    if its["dataset"]["name"] != mine["dataset"]["name"] or excluded != forget:
        raise InputError(
            f"{_REFERENCE.value} was trained on {its['dataset']['name']} without classes {list(excluded)}; "
            f"give one trained with --config.data.exclude={','.join(map(str, forget))}"
        )
    if its["config"]["model"] != mine["config"]["model"]:
        raise InputError(
            f"{_REFERENCE.value} is another network ({_words(its['config']['model'])}) than {_WORKDIR.value} "
            f"({_words(mine['config']['model'])}); give one trained with the same config.model"
        )
    return reference


def _check_full(unlearn: dict[str, Any]) -> None:
    from osp_jax.errors import InputError

    classes = ",".join(map(str, unlearn["forget"]))
    if not _REFERENCE.value:
        raise InputError(
            "a full audit compares with a retrained model; train one with experiments.train "
            f"--config.data.exclude={classes} and give it as --reference, or use --audit=quick"
        )
    if not _SHADOWS.value:
        raise InputError(
            f"a full audit needs shadow models; train them: python -m experiments.shadows "
            f"--workdir={unlearn['original']} --forget={classes} --out=SHADOWS, and add --shadows=SHADOWS, "
            "or use --audit=quick"
        )


def _shadows(original: Any, dataset: Any, train: Any, forget: tuple[int, ...]) -> tuple[Any, ...]:
    from ml_collections import ConfigDict

    from osp_jax.training.shadows import find_shadows, shadow_pool

    config, pool = ConfigDict(original.record["config"]), shadow_pool(dataset, train)
    return find_shadows(config, pool, dataset.num_classes, Path(_SHADOWS.value), forget)


def _audit(models: Any, dataset: Any, train: Any, unlearn: Any, shadows: tuple[Any, ...]) -> tuple[dict, dict]:
    """(measures and curves by model, the record of the audit)"""
    from osp_jax.audit.run import LEVELS, audit, pieces, settings_of
    from osp_jax.audit.shadow_statistics import ratio_attacks
    from osp_jax.audit.subject import images_of
    from osp_jax.loading import subject_of
    from osp_jax.training.progress import terminal_bar
    from osp_jax.unlearning import get_method

    forget, level = tuple(unlearn["forget"]), LEVELS[_AUDIT.value]
    images = images_of(dataset, train, forget, level.images, seed=0)
    subjects = {name: subject_of(model) for name, model in models.items()}
    number = len(shadows[0].keep) if shadows else 0
    with terminal_bar("audit", 0, number + pieces(subjects)) as (progress, task):

        def on_work(text: str) -> None:
            progress.update(task, advance=1, text=text)

        found, seconds = audit(subjects, images, level, on_work)
        if shadows:
            start, method = time.perf_counter(), get_method(unlearn["method"])
            attacks = ratio_attacks(
                *shadows,
                unlearn["method"],
                method.options(**unlearn["options"]),
                forget,
                on_shadow=lambda i: on_work(f"shadow model {i} of {number}"),
            )
            for name, by_attack in attacks.items():
                for attack, (measures, roc) in by_attack.items():
                    found[name]["measures"]["membership"] |= measures
                    found[name]["curves"]["roc"][attack] = roc
            seconds["shadow models"] = time.perf_counter() - start
    settings = settings_of(level) | ({"shadow models": {"number": number}} if shadows else {})
    return found, {"level": _AUDIT.value, "seconds": seconds, "settings": settings}


def _words(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


if __name__ == "__main__":
    cli.run(main)
