"""Methods on three classes of Medical Abstracts, one at a time: a transformer encoder, one seed; for two CPU cores.

python -m experiments.benchmark --config=configs/benchmark/medical_abstracts.py --config.original.data.dir=FOLDER \\
    --workdir=runs/benchmark/medical_abstracts
"""

from ml_collections import ConfigDict

from configs import text_medical_abstracts
from configs.benchmark import text


def get_config() -> ConfigDict:
    original = text_medical_abstracts.get_config()
    forget = ("neoplasms", "cardiovascular diseases", "nervous system diseases")
    return text.comparison(original, forget, validation=original.data.validation)
