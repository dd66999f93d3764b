"""Runs the study of all networks and data sets (configs/paper); resumable.

python -m experiments.paper --workdir=runs/paper --minutes=10

Repeat the command until it says that everything is done; each run continues where the last one stopped. Then
`cp -r runs/paper/results/* results/paper/` and `python -m experiments.tables` fill the table.
"""

import math
from pathlib import Path

from absl import flags

from experiments import cli

_WORKDIR = cli.folder_flag("workdir", "folder of the study, written and resumed", required=True)
_MINUTES = flags.DEFINE_float(
    "minutes",
    10.0,
    "time limit of this run; the step that is running then is stopped",
    lower_bound=0.1,
    upper_bound=10**6,
)
flags.register_validator("minutes", math.isfinite, "give a number of minutes")
_ENTRIES = cli.names_flag("entries", "only these entries of configs/paper/default.py, separated by commas")
_DATA_DIR = cli.tfds_flag()
_LIST = flags.DEFINE_bool("list", False, "print the commands and which of them are done; run nothing")


def main() -> None:
    import os
    import shutil
    import time

    from configs.paper.default import get_config
    from osp_jax.comparison.paper import finished, run_steps, steps_of
    from osp_jax.runtime.errors import unknown
    from osp_jax.runtime.replacing import copy_to_new_file, updating
    from osp_jax.runtime.settings import Study, validated
    from osp_jax.runtime.workdir import check_writable

    if _DATA_DIR.value:
        os.environ["TFDS_DATA_DIR"] = _DATA_DIR.value  # of the commands that follow
    config, workdir = validated(get_config(), Study, "configs/paper/default.py"), Path(_WORKDIR.value)
    names = _ENTRIES.value or list(config.entries)
    for name in names:
        if name not in config.entries:
            raise unknown("entry", name, list(config.entries))
    plans = {name: steps_of(config.entries[name], config.methods, workdir / name) for name in names}
    if _LIST.value:
        for name, steps in plans.items():
            for step in steps:
                state = "done" if finished(workdir / name / "done", step) else "to do"
                print(f"{name}  {state:5}  python -m experiments.{step.name} {' '.join(step.arguments)}")
        return
    check_writable(workdir, 10**9)
    end = time.monotonic() + 60 * _MINUTES.value
    for name, steps in plans.items():
        seconds = end - time.monotonic()

        def on_step(text: str, name: str = name) -> None:
            print(f"{name}: {text}", flush=True)

        if seconds <= 0 or not run_steps(steps, workdir / name / "done", seconds, 60 * _MINUTES.value, on_step):
            print(f"{name} is not finished; the same command goes on")
            return
        (workdir / "results").mkdir(exist_ok=True)
        with updating(workdir / "results" / name) as folder:
            shutil.copytree(workdir / name / "results", folder, dirs_exist_ok=True, copy_function=copy_to_new_file)
    print(f"all is done: {workdir / 'results'}")


if __name__ == "__main__":
    cli.run(main, computes=False)
