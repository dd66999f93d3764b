"""`experiments.federated`: a small study, resumed with the same figures, its pages, and refusals."""

import itertools
import json
import shutil
from pathlib import Path

import pytest

from tests.experiments.conftest import assert_one_line_error, run_cases, run_command

CONFIG = "--config=configs/federated/digits.py"
SMALL = [
    CONFIG,
    "--config.model.name=allcnn",
    "--config.model.width=4",
    "--config.training.rounds=2",
    "--config.training.batch_size=128",
    "--config.division.clients=4",
    "--config.attack.malicious=(1,)",
    "--config.attack.flip_classes=8,9",
    "--config.recovery.rounds=1",
    "--config.save_every=1",
    "--config.splits=('dirichlet',)",
    "--config.scenarios=('class','label-flip')",
    "--config.methods.of_class=('fedortho:layers=last','fu-cdp')",
    "--config.methods.of_attack=('fedup',)",
]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("federated") / "study"
    done = run_command("experiments.federated", *SMALL, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return workdir


def results_of(workdir: Path) -> dict:
    return json.loads((workdir / "results.json").read_text(encoding="utf-8"))


def test_every_model_has_its_figures_and_what_was_sent(study):
    results = results_of(study)
    cells = {(cell["scenario"], cell["method"]): cell for cell in results["cells"]}
    assert set(cells) == {
        *(("class", method) for method in ("trained", "retrained", "fedortho:layers=last", "fu-cdp")),
        *(("label-flip", method) for method in ("trained", "retrained", "fedup")),
    }
    size = 4 * results["model"]["parameters"]
    for (scenario, method), cell in cells.items():
        assert "error" not in cell
        assert len(cell["after"]) == 1 + (method in ("fu-cdp", "fedup"))
        for found in cell["after"]:
            assert 0 <= found["forgotten"] <= 1
            assert 0 <= found["distance"] <= 1
            assert (found["attack"] is None) == (scenario == "class")
        if method == "retrained":
            assert cell["after"][0]["distance"] < 1e-6
    # Two exchanges a round of FCOT, one of FedAvg; four clients, two rounds.
    trained = {scenario: cells[scenario, "trained"]["traffic"] for scenario in ("class", "label-flip")}
    assert trained["class"]["up"] == 2 * 2 * 4 * size
    assert trained["class"]["up"] == 2 * trained["label-flip"]["up"] == trained["class"]["down"]
    assert 0 < cells["class", "fedortho:layers=last"]["traffic"]["up"] < size
    assert len(results["held"]["dirichlet"]) == 4


def test_the_pages_have_a_row_for_each_model_and_say_who_left(study):
    table, page = (study / name for name in ("table.md", "report.html"))
    text, html = table.read_text(encoding="utf-8"), page.read_text(encoding="utf-8")
    for word in ("retrained without it", "fu-cdp", "fedup", "rebuilt from secondary formulas", "Client 1, with"):
        assert word in text
        assert word in html
    assert "Class 3 leaves all clients" in text
    assert "<svg" in html


def test_a_study_that_lost_a_cell_and_its_last_rounds_ends_the_same(study, tmp_path):
    workdir = tmp_path / "again"
    shutil.copytree(study, workdir)
    wanted = results_of(study)["cells"]
    for name in ("results.json", "table.md", "report.html"):
        (workdir / name).unlink()
    (workdir / "SHA256SUMS").write_text(
        "".join(
            line
            for line in (workdir / "SHA256SUMS").read_text(encoding="utf-8").splitlines(keepends=True)
            if "config.json" in line
        ),
        encoding="utf-8",
    )
    shutil.rmtree(workdir / "dirichlet" / "seed0" / "class")
    shutil.rmtree(workdir / "dirichlet" / "seed0" / "trainings" / "without-class")
    (workdir / "dirichlet" / "seed0" / "label-flip" / "fedup.json").unlink()
    done = run_command("experiments.federated", *SMALL, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr

    def figures(cells):
        return [{name: value for name, value in cell.items() if name != "commit"} for cell in cells]

    assert figures(results_of(workdir)["cells"]) == figures(wanted)


def test_what_cannot_be_run_is_reported_before_any_training(tmp_path):
    texts = tmp_path / "texts.jsonl"
    given = itertools.product(("train", "test"), ("cat", "dog"))
    texts.write_text(
        "".join(f'{{"text": "a {name}", "label": "{name}", "split": "{split}"}}\n' for split, name in given)
    )
    refused = {
        f"--config.data.name=text:{texts}": "has texts",
        "--config.splits=('random',)": "iid, dirichlet, classes",
        "--config.scenarios=('class','theft')": "label-flip",
        "--config.methods.of_class=('fedup',)": "at class level",
        "--config.methods.of_client=('fedortho:score=both',)": "raw, matched",
        "--config.attack.malicious=(0,1,2,3,4)": "fewer than half",
        "--config.departures.clients=(10,)": "from 0 to 9",
        "--config.departures.classes=11": "unknown class",
        "--config.attack.flip_classes=1": "name two classes",
        "--config.training.rounds=0": "from 1",
        "--config.data.exclude=3": "departures",
    }
    cases = [[CONFIG, f"--workdir={tmp_path / 'refused'}", change] for change in refused]
    for (code, stderr), words in zip(run_cases("experiments.federated", cases), refused.values(), strict=True):
        assert_one_line_error(code, stderr, words)
    assert not (tmp_path / "refused" / "config.json").exists()
