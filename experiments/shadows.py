"""Trains the shadow models that the attacks LiRA and U-LiRA need.

python -m experiments.shadows --workdir=runs/digits --forget=3 --number=16 --out=runs/shadows

The models follow the recipe of the trained workdir. Models that are finished in --out are not trained again: another
--forget trains only the models without those classes.
"""

from pathlib import Path

from absl import flags

from experiments import cli

_WORKDIR = cli.folder_flag("workdir", "the trained model whose recipe to follow", required=True)
_FORGET = flags.DEFINE_string("forget", None, "classes to forget, by number or name: 3,5 or cat,dog", required=True)
_NUMBER = flags.DEFINE_integer("number", 16, "number of shadow models in each of the two sets; even", upper_bound=4096)
_OUT = cli.folder_flag("out", "folder of the sets, written and resumed", required=True)
_EPOCHS = flags.DEFINE_integer(
    "epochs", 0, "epochs of each model; 0: as in the recipe", lower_bound=0, upper_bound=10**6
)
_DATA_DIR = cli.data_dir_flag()


def main() -> None:
    from ml_collections import ConfigDict

    from osp_jax.audit.shadow.pool import draw_keep, shadow_pool
    from osp_jax.audit.shadow.sets import seconds_per_shadow, shadow_folder
    from osp_jax.audit.shadow.train import train_shadows
    from osp_jax.data.splits import check_forget, parse_classes
    from osp_jax.loading import dataset_of, indices_of, load_workdir, shadowed_network
    from osp_jax.runtime.errors import InputError

    trained = load_workdir(Path(_WORKDIR.value))
    names = trained.record["dataset"]["class_names"]
    forget = parse_classes(_FORGET.value, names)
    check_forget(forget, len(names), trained.model.forgotten, names)
    config, network = ConfigDict(trained.record["config"]), shadowed_network(trained)
    if _EPOCHS.value:
        config.training.epochs = _EPOCHS.value
    dataset = dataset_of(trained, _DATA_DIR.value)
    pool = shadow_pool(dataset, indices_of(trained, dataset)[0])
    unseen = [names[c] for c in forget if c not in pool.labels]
    if unseen:
        raise InputError(
            f"{_WORKDIR.value} was not trained on {', '.join(unseen)}, so no shadow model would be; choose the workdir "
            "of a model that was"
        )
    keep = draw_keep(pool.labels, _NUMBER.value, config.seed)
    for exclude, what in ((), "all classes"), (forget, f"all but {', '.join(names[c] for c in forget)}"):
        train_shadows(config, pool, len(names), keep, Path(_OUT.value), exclude=exclude, network=network)
        folder = shadow_folder(config, pool, keep, Path(_OUT.value), exclude, network)
        print(f"{len(keep)} shadow models of {what}: {seconds_per_shadow(folder):.1f} s each, in {folder}")


if __name__ == "__main__":
    cli.run(main)
