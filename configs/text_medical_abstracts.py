"""A transformer encoder (1 layer, 64 channels) on Medical Abstracts, split 70/15/15 by text.

    python -m experiments.train --config=configs/text_medical_abstracts.py --config.data.dir=FOLDER \\
        --workdir=runs/medical_abstracts

`FOLDER` contains `medical_abstracts.jsonl.xz` (docs/text.md). Six epochs over 2,018 abstracts; more epochs reduce the
accuracy on held-out abstracts.
"""

from ml_collections import ConfigDict

from configs import text_encoder


def get_config() -> ConfigDict:
    config = text_encoder.get_config()
    config.data.name = "text:medical_abstracts.jsonl.xz"
    config.data.test = 0.15
    config.data.validation = 0.15 / 0.85
    config.data.vocabulary = 10_000
    config.model.width = 64
    config.model.layers = 1
    config.training.epochs = 6
    config.training.batch_size = 32
    config.checkpoint.every = 6
    return config
