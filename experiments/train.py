"""Trains a model from a config, and stores its class statistics.

python -m experiments.train --config=configs/digits.py --workdir=runs/digits
"""

import sys
import time
from contextlib import nullcontext
from pathlib import Path

from ml_collections import config_flags

from experiments import cli

_CONFIG = cli.guarded(config_flags.DEFINE_config_file("config", None, "the experiment; a Python file"))
_WORKDIR = cli.folder_flag("workdir", "folder of the run, written and resumed", required=True)
_TENSORBOARD = cli.folder_flag("tensorboard", "also write the metrics of each epoch here, as TensorBoard event files")


def main() -> None:
    from osp_jax import statistics_files
    from osp_jax.data.sources import load_data
    from osp_jax.loading import load_workdir, statistics_of, stored_statistics
    from osp_jax.runtime.distributed import is_first
    from osp_jax.runtime.errors import InputError
    from osp_jax.runtime.workdir import close_training, read_tokenizer
    from osp_jax.training.loop import train
    from osp_jax.training.tensorboard import event_files

    config, workdir = cli.config_of(_CONFIG), Path(_WORKDIR.value)
    start = config.training.start_from  # a network of texts keeps its own token ids
    dataset = load_data(config.data, read_tokenizer(Path(start)) if start else "")
    if config.training.head == "ridge":
        from osp_jax.head_fit_workdir import fit_workdir

        if _TENSORBOARD.value:
            raise InputError("a head that is fitted in closed form has no epochs to record; leave --tensorboard out")
        if note := fit_workdir(config, dataset, workdir):
            print(f"warning: {note}", file=sys.stderr)
        print(f"trained: {workdir}")
        return
    with event_files(Path(_TENSORBOARD.value)) if _TENSORBOARD.value else nullcontext() as on_epoch:
        train(config, dataset, workdir, on_epoch)
    if (workdir / "statistics").exists():
        stored_statistics(load_workdir(workdir), workdir)  # raises where they are damaged
    else:
        start = time.perf_counter()
        statistics_files.save_statistics(workdir / "statistics", statistics_of(load_workdir(workdir), dataset))
        close_training(workdir)
        if is_first():
            print(f"class statistics in {time.perf_counter() - start:.1f} s", file=sys.stderr)
    print(f"trained: {workdir}")


if __name__ == "__main__":
    cli.run(main, several=True)
