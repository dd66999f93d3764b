"""A transformer encoder (1 layer, 64 channels) on 20 Newsgroups by date, headers, footers and quotes stripped.

    python -m experiments.train --config=configs/text_newsgroups.py --config.data.dir=FOLDER --workdir=runs/newsgroups

`FOLDER` contains `20newsgroups.jsonl.xz` (docs/text.md). Five epochs over 11,314 posts.
"""

from ml_collections import ConfigDict

from configs import text_encoder


def get_config() -> ConfigDict:
    config = text_encoder.get_config()
    config.data.name = "text:20newsgroups.jsonl.xz"
    config.data.strip = "newsgroups"
    config.model.width = 64
    config.model.layers = 1
    config.training.epochs = 5
    config.checkpoint.every = 5
    return config
