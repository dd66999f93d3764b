"""Imports other people's PyTorch networks by the user's commands: files and flags."""

import dataclasses
import subprocess
import sys
from pathlib import Path

from osp_jax.runtime.errors import InputError, shown

_FUNCTIONS = "benchmarks.brought.torch_networks"
_IMAGENET = ("0.485,0.456,0.406", "0.229,0.224,0.225")


@dataclasses.dataclass(frozen=True)
class Imported:
    """A weight file, with the information of its authors.

    Attributes:
      file: name in the folder of the weights.
      mean, std: normalisation of the training, as command-line values.
      accuracy: its published test accuracy.
      dataset: its training data, a TFDS name.
    """

    file: str
    mean: str
    std: str
    accuracy: float
    dataset: str = "cifar10"


# By the name of the function in `torch_networks` that creates the network.
IMPORTED = {
    "resnet20": Imported("cifar10_resnet20_torch.th", *_IMAGENET, 0.9173),
    "resnet32": Imported("cifar10_resnet32_torch.th", *_IMAGENET, 0.9263),
    "vit": Imported("cifar10_vit_torch.pt", "0.5", "0.5", 0.7462),
    "micronet": Imported(
        "cifar100_micronet_torch.t7", "0.5071,0.4865,0.4409", "0.2673,0.2564,0.2762", 0.8091, "cifar100"
    ),
}


def import_model(name: str, models: Path, data_dir: str, scratch: Path) -> Path:
    """The workdir `scratch/NAME` of the network `name` of `IMPORTED`; an existing one is used again.

    Raises:
      InputError: the command failed; the error has its last line.
    """
    given, workdir = IMPORTED[name], scratch / name
    if not workdir.exists():
        flags = {
            "network": f"{_FUNCTIONS}:{name}",
            "weights": models / given.file,
            "data": given.dataset,
            "data_dir": data_dir,
            "mean": given.mean,
            "std": given.std,
            "workdir": workdir,
        }
        run("experiments.import_model", flags)
    return workdir


def run(module: str, flags: dict[str, object], allowed: tuple[int, ...] = (0,)) -> int:
    """Runs `python -m MODULE --flag=value ...` and returns its exit code.

    Raises:
      InputError: the exit code is not one of `allowed`; the error has the command and its last line.
    """
    words = [sys.executable, "-m", module, *(f"--{name}={value}" for name, value in flags.items())]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode not in allowed:
        last = (done.stdout.strip().splitlines() or ["it printed nothing"])[-1]
        raise InputError(f"python {' '.join(words[1:])} ended with exit code {done.returncode}: {shown(last)}")
    return done.returncode
