"""Trains a model from a config, and stores its class statistics beside the checkpoint.

python -m experiments.train --config=configs/digits.py --workdir=runs/digits
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from experiments import cli

_CONFIG = config_flags.DEFINE_config_file("config", "configs/default.py", "the experiment; a Python file", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "where the run is written, and resumed from", required=True)


def main() -> None:
    from osp_jax.data.sources import load_dataset
    from osp_jax.training.loop import train

    config, workdir = _CONFIG.value, Path(_WORKDIR.value)
    dataset = load_dataset(config.data.name, config.data.dir, config.data.image_size)
    train(config, dataset, workdir)


if __name__ == "__main__":
    cli.run(main)
