"""Evaluates an unlearned model beside its original, the trivial reference and a retrained one, and writes the report.

python -m experiments.eval --workdir=runs/without_3 --reference=runs/retrained
python -m experiments.eval --workdir=runs/without_3 --reference=runs/retrained --audit=full --shadows=runs/shadows
"""

from pathlib import Path

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
    from osp_jax.audit.run import LEVELS, audit, pieces, settings_of
    from osp_jax.audit.subject import images_of
    from osp_jax.data.splits import parse_classes
    from osp_jax.errors import InputError
    from osp_jax.forward import predict_logits
    from osp_jax.loading import dataset_of, indices_of, moments_of, record_for_report, subject_of
    from osp_jax.provenance import provenance
    from osp_jax.report.page import report_html, report_markdown
    from osp_jax.training.progress import terminal_bar
    from osp_jax.workdir import TrainedModel, load_workdir, read_json, write_json, write_text

    workdir = Path(_WORKDIR.value)
    trained = load_workdir(workdir)
    names = trained.record["dataset"]["class_names"]
    unlearn = read_json(workdir / "unlearn.json") if (workdir / "unlearn.json").exists() else None
    forget = tuple(unlearn["forget"]) if unlearn else ()
    models = {"original": load_workdir(Path(_ORIGINAL.value or unlearn["original"])) if unlearn else trained}
    if unlearn:
        models["unlearned"] = trained
    if _REFERENCE.value:
        reference = load_workdir(Path(_REFERENCE.value))
        excluded = parse_classes(reference.record["config"]["data"]["exclude"], names)
        if reference.record["dataset"]["name"] != trained.record["dataset"]["name"] or excluded != forget:
            raise InputError(
                f"{_REFERENCE.value} was trained on {reference.record['dataset']['name']} without classes "
                f"{list(excluded)}; give one trained with --config.data.exclude={','.join(map(str, forget))}"
            )
        if reference.record["config"]["model"] != trained.record["config"]["model"]:
            raise InputError(
                f"{_REFERENCE.value} is a {reference.record['config']['model']['name']} of other settings than "
                f"{workdir}; give one trained with the same config.model"
            )
        models["retrained"] = reference
    if _AUDIT.value == "full" and unlearn:
        _check_full(Path(unlearn["original"]), forget)

    dataset = dataset_of(trained, _DATA_DIR.value)
    # Forgotten images too: what the retrained model was not shown is still asked of it.
    train, _ = indices_of(models["original"], dataset)
    test = np.arange(len(dataset.test.labels))

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
    record = None
    if unlearn and _AUDIT.value != "none":
        images = images_of(dataset, train, forget, LEVELS[_AUDIT.value].images, seed=0)
        subjects = {name: subject_of(model) for name, model in models.items()}
        with terminal_bar("audit", 0, pieces(subjects)) as (progress, task):
            found, seconds = audit(
                subjects, images, LEVELS[_AUDIT.value], lambda text: progress.update(task, advance=1, text=text)
            )
        for name, answer in found.items():
            reports[name] |= answer
        record = {"level": _AUDIT.value, "seconds": seconds, "settings": settings_of(LEVELS[_AUDIT.value])}
    evaluation = {
        **record_for_report(trained),
        "forget": list(forget),
        "method": unlearn["method"] if unlearn else None,
        **reports,
        "audit": record,
        "channels": unlearn["channels"] if unlearn else {},
        "unlearn": {key: value for key, value in unlearn.items() if key != "channels"} if unlearn else None,
        "provenance": provenance(trained.record["config"]["seed"]),
    }
    write_json(workdir / "eval.json", evaluation)
    write_text(workdir / "report.md", report_markdown(evaluation))
    write_text(workdir / "report.html", report_html(evaluation))
    print(f"evaluated: {workdir / 'eval.json'}, {workdir / 'report.md'}, {workdir / 'report.html'}")


def _check_full(original: Path, forget: tuple[int, ...]) -> None:
    from osp_jax.errors import InputError

    classes = ",".join(map(str, forget))
    if not _REFERENCE.value:
        raise InputError(
            "a full audit compares with a retrained model; train one with experiments.train "
            f"--config.data.exclude={classes} and give it as --reference, or use --audit=quick"
        )
    if not _SHADOWS.value:
        raise InputError(
            f"a full audit needs shadow models; train them: python -m experiments.shadows --workdir={original} "
            f"--forget={classes} --out=SHADOWS, and add --shadows=SHADOWS, or use --audit=quick"
        )


if __name__ == "__main__":
    cli.run(main)
