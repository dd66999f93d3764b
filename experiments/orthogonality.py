"""Measures how a training penalty specialises channels, and the trade-off when they are masked.

python -m experiments.orthogonality --models=runs/orthogonality --out=results/orthogonality

Evaluates every trained model below a folder on its held-out training images, and its accuracy on the test images.
Averages models that differ only in the seed.
"""

from pathlib import Path

from absl import flags

from experiments import cli

_MODELS = cli.folder_flag("models", "folder with models that experiments.train wrote", required=True)
_OUT = cli.folder_flag("out", "folder for results.json, table.md and tradeoff.svg", required=True)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace the results in --out")
_DATA_DIR = cli.data_dir_flag()

AMOUNTS = (0.1, 0.25, 0.5)
STRENGTHS = tuple(round(0.05 * step, 2) for step in range(1, 21))


def main() -> None:
    from osp_jax.loading import dataset_of, load_workdir
    from osp_jax.report.orthogonality import orthogonality_markdown, tradeoff_figure
    from osp_jax.runtime.errors import InputError
    from osp_jax.runtime.overwriting import check_results
    from osp_jax.runtime.provenance import provenance
    from osp_jax.runtime.workdir import adding, check_writable, write_json, write_text

    folder, out = Path(_MODELS.value), Path(_OUT.value)
    names = "results.json", "table.md", "tradeoff.svg"
    check_results(out, names, _OVERWRITE.value)
    paths = [path for path in sorted(folder.glob("*")) if (path / "statistics").is_dir()]
    if not paths:
        raise InputError(
            f"{folder} holds no trained model; train some: python -m experiments.train --workdir={folder}/A"
        )
    dataset = dataset_of(load_workdir(paths[0]), _DATA_DIR.value)
    check_writable(out, 10**7)
    rows = []
    for path in paths:
        rows.append(_measured(path, dataset))
        print(f"{path.name}: {rows[-1]['accuracy']:.1%}", flush=True)
    results = {
        "dataset": {"name": dataset.name, "variant": dataset.variant},
        "amounts": AMOUNTS,
        "strengths": STRENGTHS,
        "models": rows,
        "provenance": provenance(0),
    }
    with adding(out, names) as place:
        write_json(place / "results.json", results)
        write_text(place / "table.md", orthogonality_markdown(results))
        write_text(place / "tradeoff.svg", tradeoff_figure(results))
    print(f"written: {out / 'results.json'}, {out / 'table.md'}, {out / 'tradeoff.svg'}")


def _measured(path: Path, dataset) -> dict:
    import jax
    import jax.numpy as jnp
    import numpy as np

    from osp_jax.audit.specificity import feature_correlation, top_class_share, tradeoff
    from osp_jax.data.batches import index_batches
    from osp_jax.forward import predict_logits
    from osp_jax.loading import indices_of, load_workdir, record_for_report, stored_statistics
    from osp_jax.methods.parts.head import head_of
    from osp_jax.runtime.errors import InputError
    from osp_jax.statistics import collect_statistics
    from osp_jax.training.orthogonality import gram_errors

    trained = load_workdir(path)
    if trained.record["dataset"]["name"] != dataset.name:
        raise InputError(f"{path} was trained on {trained.record['dataset']['name']}; put it into another folder")
    held_out = indices_of(trained, dataset)[1]
    if not len(held_out):
        raise InputError(
            f"{path} held out no examples; train with --config.data.validation=0.04, or import with --validation=0.04"
        )
    model = trained.model
    logits = predict_logits(model, dataset.test, np.arange(len(dataset.test.labels)))
    statistics = stored_statistics(trained, path)
    last = statistics.gates.last.name
    batches = index_batches(dataset.train, held_out, 256)
    seen = collect_statistics(model, batches, keep_features=len(held_out))
    head = head_of(model.variables, statistics.gates.head)
    features, labels = seen.features, jnp.asarray(seen.labels)
    curves = {}
    for amount in AMOUNTS:
        forget, change = tradeoff(statistics.layers[last], head, features, labels, amount=amount, strengths=STRENGTHS)
        curves[str(amount)] = {"forget_accuracy": forget.mean(0).tolist(), "retain_change": change.mean(0).tolist()}
    errors = {name: float(error) for name, error in jax.device_get(gram_errors(_parameters(model, path))).items()}
    shares = {name: np.asarray(top_class_share(layer)) for name, layer in statistics.layers.items()}
    return {
        "name": path.name,
        **record_for_report(trained),
        "config": trained.record["config"],
        "accuracy": float((logits.argmax(-1) == dataset.test.labels).mean()),
        "validation_accuracy": float(((features @ head[0] + head[1]).argmax(-1) == labels).mean()),
        "gram_error": errors,
        "feature_correlation": feature_correlation(np.asarray(features)),
        "top_class_share": {name: float(np.nanmedian(share)) for name, share in shares.items()},
        "dead_channels": int(sum(np.isnan(share).sum() for share in shares.values())),
        "tradeoff": curves,
        "provenance": trained.record["provenance"],
    }


def _parameters(model, path: Path) -> dict:
    """The parameters of a network, their kernels in Linen's layout, which the Gram errors need."""
    from osp_jax.runtime.errors import InputError
    from osp_jax.training.orthogonality import conv_kernels

    parameters = model.variables.get("params") if isinstance(model.variables, dict) else None
    if not isinstance(parameters, dict) or not conv_kernels(parameters):
        raise InputError(
            f"{path} has no convolutions that are called as in Linen and NNX, params/.../kernel, which this compares; "
            "put it into another folder"
        )
    return parameters


if __name__ == "__main__":
    cli.run(main)
