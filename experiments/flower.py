"""Runs one cell of a federated study in Flower's processes, and compares it with the simulator.

python -m experiments.flower --config=configs/federated/flower.py --workdir=runs/flower

Starts a SuperLink and a SuperNode for each client on 127.0.0.1, trains, edits the model and lets the clients recover,
and stops all processes. Flower's telemetry is off.
"""

import tempfile
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from experiments import cli

_CONFIG = cli.guarded(config_flags.DEFINE_config_file("config", None, "a federated study; a Python file"))
_WORKDIR = cli.folder_flag("workdir", "folder for flower.json", required=True)
_SPLIT = flags.DEFINE_string("split", "iid", "how the images are divided among the clients")
_SCENARIO = flags.DEFINE_string("scenario", "class", "what to forget: class, client, sample, or an attack")
_METHOD = flags.DEFINE_string("method", "fedortho", "name, or name:setting=value,...")
_SEED = flags.DEFINE_integer("seed", 0, "seed of the untrained network and of the training", **cli.SEEDS)
_MINUTES = flags.DEFINE_integer(
    "minutes", 60, "time limit, after which the run stops", lower_bound=1, upper_bound=10**6
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace flower.json in --workdir")


def main() -> None:
    import time

    from osp_jax.federated.flower.cell import ANSWER, REFUSAL, cell_of, simulate_cell
    from osp_jax.federated.flower.loopback import log_end, run_app
    from osp_jax.runtime.arrays import load_tree
    from osp_jax.runtime.errors import InputError
    from osp_jax.runtime.overwriting import check_results
    from osp_jax.runtime.provenance import provenance
    from osp_jax.runtime.workdir import adding, check_writable, write_json

    config, workdir = cli.config_of(_CONFIG, "federated"), Path(_WORKDIR.value)
    check_results(workdir, ["flower.json"], _OVERWRITE.value)
    given = {"split": _SPLIT.value, "seed": _SEED.value, "scenario": _SCENARIO.value, "method": _METHOD.value}
    given["config"] = config.to_dict()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cell = cell_of(given, folder)
        check_writable(workdir, 10**7)
        write_json(folder / "cell.json", given)
        start, clients = time.monotonic(), config.division.clients
        print(f"{clients} clients over Flower on 127.0.0.1: {_SCENARIO.value}, {_METHOD.value}", flush=True)
        run_config = {"cell": str(folder / "cell.json")}
        run_app("osp_jax.federated.flower.cell", run_config, clients, folder / "flower", 60 * _MINUTES.value)
        seconds = time.monotonic() - start
        if (folder / REFUSAL).exists():
            raise InputError((folder / REFUSAL).read_text(encoding="utf-8"))
        if not (folder / ANSWER).exists():
            raise RuntimeError(f"the ServerApp failed:\n{log_end(folder / 'flower' / 'flwr.log')}")
        found, record = load_tree(folder / ANSWER)
        expected, simulation = simulate_cell(cell)
    differences = {name: _largest_difference(found[name], expected[name]) for name in expected}
    results = {**given, **record, "simulated": simulation, "differences": differences, "seconds": seconds}
    with adding(workdir, ["flower.json"]) as place:
        write_json(place / "flower.json", {**results, "provenance": provenance(_SEED.value)})
    for name, difference in differences.items():
        sent = record["traffic"][name]
        print(f"{name}: {difference:.1e} from the simulator, {sent['down']:,} bytes to clients, {sent['up']:,} back")
    print(f"written: {workdir / 'flower.json'}, after {seconds:.0f} s")


def _largest_difference(found, expected) -> float:
    import jax
    import numpy as np

    differences = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()), found, expected)
    return max(jax.tree.leaves(differences))


if __name__ == "__main__":
    cli.run(main)
