"""A transformer encoder (2 layers, 128 channels) on a file of texts, from random parameters.

    python -m experiments.train --config=configs/text_encoder.py --config.data.name=text:FILE --workdir=runs/text

`FILE` is jsonl or csv, as docs/text.md describes. Word dropout and weight decay are far stronger than for images, since
a few thousand texts teach an encoder little beyond its embeddings.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.name = "text:texts.jsonl"
    config.data.pad = 0
    config.data.word_dropout = 0.6
    config.model.name = "text_encoder"
    config.model.width = 128
    config.training.optimiser = "adamw"
    config.training.epochs = 8
    config.training.learning_rate = 5e-3
    config.training.warmup = 0.1
    config.training.weight_decay = 0.5
    config.training.label_smoothing = 0.1
    config.orthogonality.penalty = "none"
    config.head.flip = False
    return config
