"""A TFDS folder with a small set of large images under ImageNet's name."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES, TRAIN, TEST = 3, 24, 7
SIDES = ((224, 224), (250, 230), (229, 301))  # width and height


def jpeg(number: int, label: int) -> bytes:
    """Smooth, and of a colour by its class."""
    small = np.random.default_rng(number).integers(0, 120, (6, 6, 3)) + 120 * np.eye(3, dtype=int)[label]
    pixels = Image.fromarray(small.astype(np.uint8)).resize(SIDES[number % len(SIDES)])
    file = io.BytesIO()
    pixels.save(file, "JPEG")
    return file.getvalue()


def write_records(path: Path) -> None:
    """Into the TFDS folder `path`; as in ImageNet, the labels of the test split are kept back."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        __module__ = __name__
        name, VERSION = "imagenet2012", tfds.core.Version("5.1.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(names=[*"abc"]),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            counts = {"train": (0, TRAIN, 0), "validation": (100, TEST, 0), "test": (200, 2, -1)}
            return {name: self._generate_examples(*given) for name, given in counts.items()}

        def _generate_examples(self, first, count, kept_back):
            for number in range(first, first + count):
                image = jpeg(number, number % CLASSES)
                yield number, {"image": image, "label": kept_back or number % CLASSES}

    Builder(data_dir=path).download_and_prepare(file_format="array_record")
