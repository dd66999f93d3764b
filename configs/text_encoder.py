"""A transformer encoder (2 layers, 128 channels) on a file of texts, from random parameters.

    python -m experiments.train --config=configs/text_encoder.py --config.data.name=text:FILE --workdir=runs/text

`FILE` is jsonl or csv, as docs/text.md describes.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.name = "text:texts.jsonl"
    config.data.pad = 0
    config.data.word_dropout = 0.3
    config.model.name = "text_encoder"
    config.training.optimiser = "adamw"
    config.training.learning_rate = 3e-3
    config.training.warmup = 0.1
    config.training.weight_decay = 0.05
    config.training.label_smoothing = 0.1
    config.training.epochs = 10
    config.orthogonality.penalty = "none"
    config.head.flip = False
    return config
