"""A small file of texts: four classes with their own words among common ones."""

import json
import random
from pathlib import Path

import pytest

CLASSES = ("books", "dogs", "ships", "trains")
SETTINGS = {
    "image_size": 0, "channels": 0, "stream": False, "test": 0.0, "validation": 0.0, "strip": "", "vocabulary": 300,
    "length": 12,
}  # fmt: skip


def rows(train: int = 40, test: int = 20) -> list[dict]:
    draw, common = random.Random(0), [f"word{i}" for i in range(20)]
    found = []
    for split, number in (("train", train), ("test", test)):
        for name in CLASSES:
            for _ in range(number):
                words = draw.choices([f"{name}{i}" for i in range(8)], k=4) + draw.choices(common, k=draw.randint(0, 6))
                draw.shuffle(words)
                found.append({"text": " ".join(words), "label": name, "split": split})
    return found


def write(path: Path, found: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def texts(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("texts") / "texts.jsonl", rows())
