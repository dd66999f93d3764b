"""One cell of a federated study (a training, a request and a method) with any engine, and its apps for Flower.

The apps read the cell from a file, whose path is `cell` in Flower's run config, so all processes need a shared disk.
`loopback.run_app` runs them on one machine.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from osp_jax.data.sources import load_data
from osp_jax.federated.client import ClientData
from osp_jax.federated.editing import Ask, FederatedMethod
from osp_jax.federated.flower.client_app import client_app
from osp_jax.federated.flower.federation import Federation
from osp_jax.federated.flower.strategies import train
from osp_jax.federated.methods import parse_method
from osp_jax.federated.requests import LEVELS, Request
from osp_jax.federated.rounds import Trained
from osp_jax.federated.rounds import train as train_in_simulator
from osp_jax.federated.scenario import Scenario, forgotten, scenario_of
from osp_jax.federated.simulator import asking, client_of
from osp_jax.federated.study import check_study
from osp_jax.federated.world import TRAIN, World, world_of
from osp_jax.model import Model
from osp_jax.runtime.arrays import save_tree
from osp_jax.runtime.errors import InputError
from osp_jax.runtime.settings import Federated, validated
from osp_jax.runtime.workdir import read_json, write_text

Train = Callable[..., Trained]  # (model, key, schedule, *, request=None, mask=None)

ANSWER, REFUSAL = "answer", "refusal.txt"  # results of the server, next to the cell's file


class Cell(NamedTuple):
    """A cell of a study. `world` and `scenario` are those of `study`."""

    world: World
    scenario: Scenario
    method: FederatedMethod


def cell_of(given: dict[str, Any], folder: Path) -> Cell:
    """A cell from its record: the `config` of a study, and `split`, `seed`, `scenario` and `method` of the cell.

    Raises:
      InputError: as `study.check_study` for a study with this cell only.
    """
    scenario, method = given["scenario"], given["method"]
    one = {"splits": (given["split"],), "seeds": (given["seed"],), "scenarios": (scenario,)}
    methods = {f"of_{scenario if scenario in LEVELS else 'attack'}": (method,)}
    config = validated({**given["config"], **one, "methods": methods}, Federated)
    dataset = load_data(config.data)
    check_study(config, dataset)
    if scenario == "label-flip" and not config.attack.flip_classes:
        raise InputError("name the classes of label-flip, as in --config.attack.flip_classes=4,9")
    world = world_of(config, dataset, given["split"], given["seed"], folder)
    return Cell(world, scenario_of(world, scenario), parse_method(method))


def run_cell(cell: Cell, train: Train, ask: Ask) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trains, edits and recovers.

    Returns:
      the variables 'trained', 'edited' and, for a method with recovery rounds, 'recovered'; and a JSON-ready record of
      the bytes sent for each.
    """
    world, scenario, method = cell
    before = train(world.model, jax.random.fold_in(world.key, TRAIN), scenario.schedule)
    recover = partial(train, request=scenario.request)
    edit, after = forgotten(world, scenario, method, before, ask, recover)
    found = {"trained": before.variables, "edited": edit.variables}
    sent = {"trained": before.traffic._asdict(), "edited": edit.traffic._asdict()}
    if after is not None:
        found["recovered"], sent["recovered"] = after.variables, after.traffic._asdict()
    return found, {"traffic": sent}


def simulate_cell(cell: Cell) -> tuple[dict[str, Any], dict[str, Any]]:
    """`run_cell`, with the simulator."""
    clients = cell.scenario.clients

    def run(model: Model, *given: Any, request: Request | None = None, mask: Any = None) -> Trained:
        left = clients if request is None else request.retained(clients)
        return train_in_simulator(model, left, *given, mask=mask)

    return run_cell(cell, run, asking(clients))


@lru_cache(maxsize=1)
def _read(path: str) -> Cell:
    return cell_of(read_json(Path(path)), Path(path).parent)


def _setup(context: Context) -> tuple[Model, ClientData]:
    cell = _read(context.run_config["cell"])
    return cell.world.model, client_of(cell.scenario.clients, context.node_config["partition-id"])


client = client_app(_setup)
server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Runs the cell with Flower, and writes the variables, or the message of an `InputError`, next to its file."""
    path = Path(context.run_config["cell"])
    try:
        cell = _read(str(path))
        federation = Federation(grid, cell.world.config.division.clients)
        found, record = run_cell(cell, partial(train, federation), federation.ask)
        save_tree(path.parent / ANSWER, found, record)
    except InputError as error:
        write_text(path.parent / REFUSAL, str(error))
        raise
