"""The tokenizer: the most frequent words of the training split, in lower case, made by the library `tokenizers`.

A word is a run of letters and digits; other characters are dropped, so that the first tokens of a text hold more of its
words. Tokens are whole words: the trainer of word pieces (tokenizers 0.23) assigns different ids to the same texts each
time, so that a run could not be resumed.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from osp_jax.data.kinds import PAD, SPECIAL_TOKENS, UNKNOWN
from osp_jax.runtime.errors import InputError

_WORDS = r"[\p{L}\p{N}]+"
_LEAST = 2  # fewest occurrences of a word in the texts
_AT_A_TIME = 2000  # texts that are encoded together


def require_tokenizers() -> Any:
    """Imports `tokenizers`.

    Raises:
      InputError: it is not installed.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise InputError(f"texts need tokenizers ({error}); install it: pip install 'osp_jax[text]'") from error
    return tokenizers


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> str:
    """A tokenizer for `texts`, as JSON; deterministic.

    Args:
      vocabulary: most tokens, including `SPECIAL_TOKENS`, which have the first ids.
    """
    tokenizers = require_tokenizers()
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token=SPECIAL_TOKENS[UNKNOWN]))
    made.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(_WORDS), "removed", invert=True)
    trainer = tokenizers.trainers.WordLevelTrainer(
        vocab_size=vocabulary, min_frequency=_LEAST, special_tokens=list(SPECIAL_TOKENS), show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    return made.to_str()


def encode(tokenizer: str, texts: Sequence[str], length: int) -> np.ndarray:
    """Token ids uint16 `(n, length)`: the first `length` of each text; shorter ones are padded.

    Raises:
      InputError: `tokenizer` is invalid, or not one of ours.
    """
    made = _read(tokenizer)
    ids = np.full((len(texts), length), PAD, np.uint16)
    for start in range(0, len(texts), _AT_A_TIME):
        encoded = made.encode_batch_fast(list(texts[start : start + _AT_A_TIME]), add_special_tokens=False)
        for row, found in enumerate(encoded, start):
            first = found.ids[:length]
            ids[row, : len(first)] = first
    return ids


def token_names(tokenizer: str) -> list[str]:
    """The tokens in the order of their ids."""
    made = _read(tokenizer)
    return [made.id_to_token(number) for number in range(made.get_vocab_size())]


def _read(tokenizer: str) -> Any:
    try:
        made = require_tokenizers().Tokenizer.from_str(tokenizer)
    except InputError:
        raise
    except Exception as error:  # the library raises Exception itself
        raise InputError(
            f"the tokenizer cannot be read ({str(error)[:120]}); restore tokenizer.json of the workdir"
        ) from error
    if [made.id_to_token(number) for number in (PAD, UNKNOWN)] != list(SPECIAL_TOKENS):
        raise InputError(f"the first tokens are not {', '.join(SPECIAL_TOKENS)}; give a tokenizer.json of this project")
    return made
