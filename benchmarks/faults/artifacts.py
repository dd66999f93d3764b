"""The folders for fault injection, created once by the commands themselves, and their contents."""

import hashlib
import io
import json
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.faults import server
from benchmarks.faults.trees import remove

CONFIG = """from configs import digits

def get_config():
    config = digits.get_config()
    config.model.width = 4
    config.training.epochs = 2
    config.training.batch_size = 256
    config.statistics.features = 200
    return config
"""

TRAIN = ("--config=tiny.py",)
# (folder, command, arguments); `unfinished` and `sweep_unfinished` are killed before they end.
_COMMANDS = (
    ("model", "train", (*TRAIN, "--workdir=model")),
    ("retrained", "train", (*TRAIN, "--workdir=retrained", "--config.data.exclude=3")),
    ("unlearned", "unlearn", ("--workdir=model", "--forget=3", "--accept", "--out=unlearned")),
    ("other", "unlearn", ("--workdir=model", "--forget=5", "--method=logit-mask", "--out=other")),
    ("evaluated", "unlearn", ("--workdir=model", "--forget=3", "--accept", "--out=evaluated")),
    ("evaluated", "eval", ("--workdir=evaluated", "--audit=none")),
    ("audits/one", "unlearn", ("--workdir=model", "--forget=3", "--accept", "--out=audits/one")),
    ("audits/one", "eval", ("--workdir=audits/one", "--reference=retrained")),
    ("sweep", "sweep", ("--workdir=model", "--methods=logit-mask", "--out=sweep")),
    ("shadows", "shadows", ("--workdir=model", "--forget=3", "--number=4", "--epochs=1", "--out=shadows")),
)
_TIMES = re.compile(r"seconds|time|warm|cold|compile|per_second|command")
_TIME_TEXT = re.compile(r"\d{4}-\d\d-\d\dT[\d:]+Z?|\d[\d.,]*\s?(?:ms|s|images/s|minutes|min)\b")


def module_of(command: str) -> str:
    return "osp_jax.data.prepare" if command == "prepare" else f"experiments.{command}"


def make_all(template: Path) -> None:
    """Creates the folders in `template` if they do not exist.

    Raises:
      RuntimeError: a command failed.
    """
    if template.is_dir():
        return
    building = template.with_name(f"{template.name}.new")
    shutil.rmtree(building, ignore_errors=True)
    (building / "audits").mkdir(parents=True)
    (building / "tiny.py").write_text(CONFIG, encoding="utf-8")
    for _, command, arguments in _COMMANDS:
        _must(server.call(module_of(command), arguments, building, limit=300), command, arguments)
    _make_unfinished(building)
    _make_foreign(building)
    server.ask(_make_given, building, "given")
    server.ask(write_tfds, building, "tfds")
    building.rename(template)


def _make_unfinished(folder: Path) -> None:
    from benchmarks.faults.kills import killed_when

    def at_second_checkpoint(event: str, path: str) -> bool:
        return event == "os.mkdir" and "/checkpoints/.2." in path

    arguments = (*TRAIN, "--workdir=unfinished")
    ended = server.call("experiments.train", arguments, folder, killed_when(at_second_checkpoint, folder))
    done = sorted(path.name for path in (folder / "unfinished/checkpoints").glob("[0-9]*"))
    if ended.code != -9 or done != ["1"]:
        raise RuntimeError(f"a training was not interrupted after its first epoch: {ended}, {done}")

    def at_fifth(event: str, path: str) -> bool:
        return event == "open" and Path(path).name.startswith((".5.json", "5.json"))

    arguments = ("--workdir=model", "--methods=logit-mask", "--out=sweep_unfinished")
    ended = server.call("experiments.sweep", arguments, folder, killed_when(at_fifth, folder))
    if ended.code != -9:
        raise RuntimeError(f"a sweep was not interrupted: {ended}")


def _make_foreign(folder: Path) -> None:
    """Files that no command wrote: a folder, a file, and circular links."""
    (folder / "foreign/photos").mkdir(parents=True)
    (folder / "foreign/photos/cat.png").write_bytes(bytes(range(256)))
    (folder / "foreign/notes.txt").write_text("not yours\n", encoding="utf-8")
    (folder / "plain").write_text("a file\n", encoding="utf-8")
    (folder / "circle").symlink_to("circle_too")
    (folder / "circle_too").symlink_to("circle")
    (folder / "link").symlink_to("model")


def _make_given(folder: str) -> None:
    """An imported network: a Python file with its function, and its weights."""
    import numpy as np

    Path(folder).mkdir()
    program = "def build():\n    return lambda v, images: images.mean((1, 2)) @ v['kernel'] + v['bias']\n"
    Path(folder, "net.py").write_text(program, encoding="utf-8")
    np.savez(Path(folder, "weights.npz"), kernel=np.ones((1, 10), np.float32), bias=np.zeros(10, np.float32))


def write_tfds(data_dir: str) -> None:
    """A small image set in the format and with the names of TFDS's CIFAR-10, in `data_dir`."""
    import numpy as np
    import tensorflow_datasets as tfds
    from PIL import Image

    tfds.disable_progress_bar()
    classes = "airplane automobile bird cat deer dog frog horse ship truck".split()

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "cifar10"
        VERSION = tfds.core.Version("3.0.2")

        def _info(self):
            features = {
                "id": tfds.features.Text(),
                "image": tfds.features.Image(shape=(32, 32, 3)),
                "label": tfds.features.ClassLabel(names=classes),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples("train", 40), "test": self._generate_examples("test", 20)}

        def _generate_examples(self, split, count):
            images = np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), np.uint8)
            for number, image in enumerate(images):
                content = io.BytesIO()
                Image.fromarray(image).save(content, "PNG")
                yield number, {"id": f"{split}_{number:05d}", "image": content.getvalue(), "label": number % 10}

    Builder(data_dir=data_dir).download_and_prepare(file_format="array_record")


def copy_of(template: Path, folder: Path, names: Iterable[str]) -> Path:
    """A fresh `folder` with the entries `names` of the template, and the config."""
    remove(folder)
    folder.mkdir(parents=True)
    for name in ("tiny.py", *names):
        source, target = template / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target.symlink_to(source.readlink())
        elif source.is_dir():
            shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copy(source, target)
    return folder


def contents_of(workdir: str) -> dict[str, Any]:
    """The content of a workdir for a reader: digests of all arrays, and the records without times; in a child only.

    {'absent': true} if there is none, {'unreadable': message} if the library refuses it.
    """
    from osp_jax.loading import load_workdir, stored_statistics
    from osp_jax.runtime.errors import InputError
    from osp_jax.runtime.workdir import EVALUATION, load_evaluation

    folder = Path(workdir)
    if not folder.exists():
        return {"absent": True}
    try:
        trained = load_workdir(folder)
        found = {"variables": _digest(trained.model.variables), "config": without_times(trained.record)}
        if (folder / "statistics").exists():
            found["statistics"] = _digest(stored_statistics(trained, folder))
        for name in ("metrics.jsonl", "unlearn.json"):
            if (folder / name).exists():
                lines = (folder / name).read_text(encoding="utf-8")
                records = lines.splitlines() if name.endswith("l") else [lines]
                found[name] = [without_times(json.loads(record)) for record in records]
        present = [name for name in EVALUATION if (folder / name).exists()]
        if present:
            found["eval.json"] = without_times(load_evaluation(folder))
            found |= {name: text_without_times(folder / name) for name in EVALUATION[1:]}
    except InputError as error:
        return {"unreadable": str(error)}
    except OSError as error:
        return {"unreadable": f"{type(error).__name__}: {error}"}
    return found


def results_of(folder: str) -> dict[str, Any]:
    """The content of a folder of results: `results.json` and its pages."""
    place = Path(folder)
    names = sorted(path.name for path in place.glob("*.*")) if place.is_dir() else []
    if "results.json" not in names:
        return {"absent": True} if not names else {"unreadable": f"only {names}"}
    try:
        found = {"results.json": without_times(json.loads((place / "results.json").read_bytes()))}
    except ValueError as error:
        return {"unreadable": str(error)}
    return found | {name: text_without_times(place / name) for name in names if name != "results.json"}


def without_times(record: Any) -> Any:
    """A record without times, and without the command line and the commit in its provenance."""
    if isinstance(record, dict):
        kept = {key: value for key, value in record.items() if not _TIMES.search(key)}
        return {key: without_times(value) for key, value in kept.items()}
    return [without_times(value) for value in record] if isinstance(record, list) else record


def text_without_times(path: Path) -> str:
    return _TIME_TEXT.sub("TIME", path.read_text(encoding="utf-8"))


def _digest(tree: Any) -> str:
    import jax
    import numpy as np

    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        values = np.asarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {values.dtype} {values.shape}".encode())
        found.update(values.tobytes())
    return found.hexdigest()


def _must(ended: server.Ended, command: str, arguments: Sequence[str]) -> None:
    if ended.code != 0:
        raise RuntimeError(f"{command} {' '.join(arguments)} ended with {ended.code}: {ended.stderr[-2000:]}")
