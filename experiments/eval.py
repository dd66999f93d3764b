"""Evaluates an unlearned model beside its original, the trivial reference and a retrained one, and writes the report.

python -m experiments.eval --workdir=runs/without_3 --reference=runs/retrained
"""

from pathlib import Path

from absl import flags

from experiments import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "what experiments.unlearn (or train) wrote", required=True)
_REFERENCE = flags.DEFINE_string("reference", None, "a model trained without the forgotten classes, to compare with")
_ORIGINAL = flags.DEFINE_string("original", None, "the model before, where it is not at the recorded place any more")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "the TFDS folder, where it is not at the recorded place any more")


def main() -> None:
    import numpy as np

    from osp_jax.audit.accuracy import accuracy_report, without_logits
    from osp_jax.data.splits import parse_classes
    from osp_jax.errors import InputError
    from osp_jax.forward import predict_logits
    from osp_jax.loading import dataset_of, indices_of, moments_of, record_for_report
    from osp_jax.provenance import provenance
    from osp_jax.report.page import report_html, report_markdown
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
        models["retrained"] = reference

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
    evaluation = {
        **record_for_report(trained),
        "forget": list(forget),
        "method": unlearn["method"] if unlearn else None,
        **{name: accuracy_report(*splits, forget) for name, splits in results.items()},
        "channels": unlearn["channels"] if unlearn else {},
        "unlearn": {key: value for key, value in unlearn.items() if key != "channels"} if unlearn else None,
        "provenance": provenance(trained.record["config"]["seed"]),
    }
    write_json(workdir / "eval.json", evaluation)
    write_text(workdir / "report.md", report_markdown(evaluation))
    write_text(workdir / "report.html", report_html(evaluation))
    print(f"evaluated: {workdir / 'eval.json'}, {workdir / 'report.md'}, {workdir / 'report.html'}")


if __name__ == "__main__":
    cli.run(main)
