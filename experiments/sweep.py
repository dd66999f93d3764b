"""Forgets each class in turn, by each method, and tabulates what is left: the single-class table of a paper.

python -m experiments.sweep --workdir=runs/cifar10 --methods=osp,osp-fit --out=results/cifar10_resnet10

With --split=validation the images that the training held out are judged instead of the test images: that is the split
to choose options on.
"""

import dataclasses
from pathlib import Path

from absl import flags

from experiments import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "the trained model", required=True)
_METHODS = flags.DEFINE_list("methods", ["osp", "osp-fit", "logit-mask"], "methods, separated by commas")
_OPTION = flags.DEFINE_multi_string("option", [], "an option of one method, as method:name=value; may be given again")
_SPLIT = flags.DEFINE_enum("split", "test", ["test", "validation"], "the images to judge on")
_OUT = flags.DEFINE_string("out", None, "folder for results.json and table.md", required=True)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace the results in --out")
_PROBES = flags.DEFINE_bool("probes", False, "also ask how well the class is read from the last features")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "the TFDS folder, where it is not at the recorded place any more")
_SEED = flags.DEFINE_integer("seed", 0, "of methods that draw random numbers")


def main() -> None:
    import jax
    import numpy as np

    from osp_jax import checkpoint
    from osp_jax.audit.accuracy import accuracy
    from osp_jax.audit.probes import probes
    from osp_jax.audit.subject import images_of, look_at
    from osp_jax.comparison.plan import parse_methods
    from osp_jax.errors import InputError
    from osp_jax.forward import predict_logits
    from osp_jax.loading import dataset_of, indices_of, moments_of, record_for_report, request_data_of, subject_of
    from osp_jax.provenance import provenance
    from osp_jax.report.sweep import sweep_markdown
    from osp_jax.unlearning import get_method
    from osp_jax.unlearning.request import timed_request
    from osp_jax.workdir import check_writable, load_workdir, write_json, write_text

    workdir, out = Path(_WORKDIR.value), Path(_OUT.value)
    if (out / "results.json").exists() and not _OVERWRITE.value:
        raise InputError(f"{out / 'results.json'} exists; choose another --out or add --overwrite")
    options = parse_methods(_METHODS.value, _OPTION.value)
    methods = {name: get_method(name) for name in options}

    trained = load_workdir(workdir)
    statistics = checkpoint.load_statistics(workdir / "statistics")
    dataset = dataset_of(trained, _DATA_DIR.value)
    split = dataset.test if _SPLIT.value == "test" else dataset.train
    train, held_out = indices_of(trained, dataset)
    indices = np.arange(len(split.labels)) if _SPLIT.value == "test" else held_out
    if not len(indices):
        raise InputError(
            "the training held out no images; train with --config.data.validation=0.04, or use --split=test"
        )
    check_writable(out, 10**6)
    labels = split.labels[indices]

    def predictions(variables: dict) -> np.ndarray:
        return predict_logits(trained.model, variables, split, indices, **moments_of(trained)).argmax(-1)

    def readable(variables: dict, forgotten: int) -> dict[str, float]:
        """Balanced accuracy of a linear probe, and forget accuracy of a new head; both fitted on training images."""
        subject = subject_of(trained)._replace(variables=variables)
        fitted = images_of(dataset, train, (forgotten,), 1000, seed=0).parts
        of_class = labels == forgotten
        looks = {
            "train_forget": look_at(subject, dataset.train, fitted["train_forget"]),
            "train_retain": look_at(subject, dataset.train, fitted["train_retain"]),
            "test_forget": look_at(subject, split, indices[of_class]),
            "test_retain": look_at(subject, split, indices[~of_class]),
        }
        last = statistics.channels.last.name
        found = probes(looks, [last])
        return {"probe": found[f"linear_{last}"]["value"], "new_head": found["new_head_forget_accuracy"]["value"]}

    before = predictions(trained.variables)
    rng = jax.random.key(_SEED.value)
    rows = []
    for forgotten in range(dataset.num_classes):
        of_class = labels == forgotten
        row = {
            "class": forgotten,
            "name": dataset.class_names[forgotten],
            "original": {
                "forget_accuracy": accuracy(before, labels, of_class),
                "retain_accuracy": accuracy(before, labels, ~of_class),
                **(readable(trained.variables, forgotten) if _PROBES.value else {}),
            },
        }
        for name, method in methods.items():
            outcome = timed_request(
                method,
                trained.model,
                trained.variables,
                (forgotten,),
                statistics,
                options[name],
                rng,
                data=request_data_of(trained, dataset, (forgotten,)) if method.sees else None,
                warm_seconds=1.0,
            )
            after = predictions(outcome.variables)
            row[name] = {
                "forget_accuracy": accuracy(after, labels, of_class),
                "retain_accuracy": accuracy(after, labels, ~of_class),
                "warm_seconds": outcome.warm_median,
                **(readable(outcome.variables, forgotten) if _PROBES.value else {}),
            }
        rows.append(row)
        print(f"{row['name']}: " + ", ".join(f"{m} {row[m]['forget_accuracy']:.1%}" for m in methods), flush=True)
    results = {
        **record_for_report(trained),
        "split": _SPLIT.value,
        "num_images": len(indices),
        "accuracy": float((before == labels).mean()),
        "options": {name: dataclasses.asdict(value) for name, value in options.items()},
        "classes": rows,
        "training": {key: trained.record[key] for key in ("config", "provenance")},
        "provenance": provenance(_SEED.value),
    }
    write_json(out / "results.json", results)
    write_text(out / "table.md", sweep_markdown(results))
    print(f"written: {out / 'results.json'}, {out / 'table.md'}")


if __name__ == "__main__":
    cli.run(main)
