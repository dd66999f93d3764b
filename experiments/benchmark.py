"""Compares unlearning methods on the same model, data, seeds and audit.

python -m experiments.benchmark --config=configs/benchmark/digits.py --workdir=runs/benchmark/digits

Resumable: after an interruption the same command continues and skips finished trainings, tunings and cells.
"""

import sys
from functools import partial
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from experiments import cli

_CONFIG = cli.guarded(config_flags.DEFINE_config_file("config", None, "the comparison; a Python file"))
_WORKDIR = cli.folder_flag("workdir", "folder of the comparison, written and resumed", required=True)
_METHODS = cli.names_flag("methods", "only these methods, separated by commas")
_FORGET = flags.DEFINE_multi_string("forget", [], "only this request: 'each', '3,5' or '3 then 5'; may be given again")
_SEEDS = cli.names_flag("seeds", "only these seeds, separated by commas")


def main() -> None:
    from osp_jax.comparison.plan import parse_methods, parse_requests
    from osp_jax.comparison.run import check_comparison, collect, compare
    from osp_jax.data.sources import load_data
    from osp_jax.report.comparison import comparison_html, comparison_markdown, comparison_tex
    from osp_jax.runtime.errors import printable
    from osp_jax.runtime.overwriting import check_results
    from osp_jax.runtime.settings import Comparison, completed
    from osp_jax.runtime.workdir import adding, check_writable, claim_workdir, write_json, write_text
    from osp_jax.training.progress import terminal_bar

    config, workdir = cli.config_of(_CONFIG, "comparison"), Path(_WORKDIR.value)
    methods = parse_methods(config.methods, config.options, only=_METHODS.value or ())
    seeds = _seeds() or config.seeds
    dataset = load_data(config.original.data)
    requests = parse_requests(_FORGET.value or config.forget, dataset.class_names)
    fitting = check_comparison(config, dataset, methods, named=bool(_METHODS.value or config.methods))
    if left_out := ", ".join(name for name in methods if name not in fitting):
        print(f"left out, since they cannot act on this network: {left_out}", file=sys.stderr)
    methods = fitting
    names = "results.json", "table.md", "table.tex", "report.html"
    check_results(workdir, names)
    check_writable(workdir, 10**8)
    claim_workdir(
        workdir, config, {"name": dataset.name, "variant": dataset.variant}, partial(completed, kind=Comparison)
    )

    pieces = len(methods) * (1 + len(seeds) * len(requests))
    with terminal_bar("training", -1, pieces) as (progress, task):

        def on_work(text: str) -> None:
            progress.update(task, advance=1, text=printable(text))
            if not progress.console.is_terminal:
                print(printable(text), file=sys.stderr, flush=True)

        compare(config, dataset, workdir, methods, requests, seeds, on_work)

    results = collect(config, workdir)
    with adding(workdir, names) as folder:
        write_json(folder / "results.json", results)
        write_text(folder / "table.md", comparison_markdown(results))
        write_text(folder / "table.tex", comparison_tex(results))
        write_text(folder / "report.html", comparison_html(results))
    print(f"compared: {workdir / 'results.json'}, table.md, table.tex, report.html")


def _seeds() -> list[int]:
    from osp_jax.runtime.errors import InputError

    given = _SEEDS.value or []
    if not all(seed.isdecimal() and len(seed) < 10 for seed in given):
        raise InputError(
            f"--seeds={','.join(given)} are not seeds; give numbers from 0 to 999999999, as in --seeds=0,1"
        )
    return [int(seed) for seed in given]


if __name__ == "__main__":
    cli.run(main, keep_programs=False)
