"""The folder of the README's user: images of three classes, `my_network.py`, and its trained `model.pt`."""

import textwrap
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("cat", "dog", "ship")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE = 32
NETWORK = """
    from torch import nn


    def build():
        return nn.Sequential(
            nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 96, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(96),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(96, 3),
        )
"""


def coloured_images(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`number` images a class, uint8 `(n, 32, 32, 3)`, and labels: noise in which one colour is stronger."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(NAMES)), number)
    images = rng.normal(100, 30, (len(labels), SIZE, SIZE, 3))
    images += 60 * np.eye(len(NAMES))[labels][:, None, None]
    return np.clip(images, 0, 255).astype(np.uint8), labels


def write_images(folder: Path, train: int = 40, test: int = 20) -> None:
    """`folder/train/cat/0.png` and so on."""
    for seed, (split, number) in enumerate({"train": train, "test": test}.items()):
        for place, (image, label) in enumerate(zip(*coloured_images(number, seed), strict=True)):
            path = folder / split / NAMES[label] / f"{place}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)


def write_network(folder: Path) -> None:
    """`folder/my_network.py`, and `folder/model.pt` with weights that recognise all images."""
    import torch

    (folder / "my_network.py").write_text(textwrap.dedent(NETWORK).lstrip(), encoding="utf-8")
    found: dict = {}
    exec((folder / "my_network.py").read_text(encoding="utf-8"), found)
    torch.manual_seed(0)
    network = found["build"]()
    images, labels = coloured_images(40, seed=0)
    x = (torch.tensor(images).permute(0, 3, 1, 2) / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[
        :, None, None
    ]
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(40):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(network(x), torch.tensor(labels)).backward()
        optimiser.step()
    torch.save(network.state_dict(), folder / "model.pt")
