"""Trains federations, removes classes, clients or images, and compares methods with retraining.

python -m experiments.federated --config=configs/federated/digits.py --workdir=runs/federated/digits

Resumable: after an interruption the same command continues and skips finished trainings and cells.
"""

import sys
from functools import partial
from pathlib import Path

from ml_collections import config_flags

from experiments import cli

_CONFIG = cli.guarded(config_flags.DEFINE_config_file("config", None, "the study; a Python file"))
_WORKDIR = cli.folder_flag("workdir", "folder of the study, written and resumed", required=True)


def main() -> None:
    from osp_jax.data.sources import load_data
    from osp_jax.federated.study import cells_of, check_study, collect, run_study
    from osp_jax.report.federated import federated_html, federated_markdown
    from osp_jax.runtime.errors import printable
    from osp_jax.runtime.overwriting import check_results
    from osp_jax.runtime.settings import Federated, completed
    from osp_jax.runtime.workdir import adding, check_writable, claim_workdir, write_json, write_text
    from osp_jax.training.progress import terminal_bar

    config, workdir = cli.config_of(_CONFIG, "federated"), Path(_WORKDIR.value)
    dataset = load_data(config.data)
    check_study(config, dataset)
    names = "results.json", "table.md", "report.html"
    check_results(workdir, names)
    check_writable(workdir, 10**8)
    claim_workdir(
        workdir, config, {"name": dataset.name, "variant": dataset.variant}, partial(completed, kind=Federated)
    )
    with terminal_bar("training", -1, cells_of(config)) as (progress, task):

        def on_work(text: str) -> None:
            progress.update(task, advance=0 if ": training " in text else 1, text=printable(text))
            if not progress.console.is_terminal:
                print(printable(text), file=sys.stderr, flush=True)

        run_study(config, dataset, workdir, on_work)

    results = collect(config, dataset, workdir)
    with adding(workdir, names) as folder:
        write_json(folder / "results.json", results)
        write_text(folder / "table.md", federated_markdown(results))
        write_text(folder / "report.html", federated_html(results))
    print(f"compared: {workdir / 'results.json'}, table.md, report.html")


if __name__ == "__main__":
    cli.run(main, keep_programs=False)
