"""STEU: trains the head and the token-embedding rows specific to the class, so that the class is not predicted.

Ait Hou et al., "Parameter-Efficient Token Embedding Editing for Clinical Class-Level Unlearning", arXiv 2603.19302
(2026). It changes behaviour only: the classifier stops predicting the class, and the frozen encoder may keep what it
knows, which the audit's probe and new head measure.

A token t has the score log2(P(t | forget) / P(t | all)) * log(1 + n(t)), with n(t) its count in the forgotten texts:
pointwise mutual information, weighted by log frequency. The `k` rows with the highest scores and the head are trained;
all other parameters stay the same, bit by bit. The loss on forgotten texts is the binary cross-entropy of the class's
logit with the label 0; the loss on retained texts is the mean over the other classes of the binary cross-entropy of the
new probability (sigmoid) with the original's.

The score, `k`, both losses and `epochs` are from the paper's text and a summary of it. We did not have access to the
rest, so these are our choices: the classes in the loss on forgotten texts (`over`), the weight of the other loss, the
optimiser (Adam), its rate, the batch size, the least number of texts, and an epoch as one pass over the forgotten texts
with as many retained ones. `loss='softmax'` is for one class per text: the probability of the class is that of the
softmax, and the others are compared without it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from osp_jax.data.augment import Preparation
from osp_jax.data.draws import host_generator
from osp_jax.data.kinds import SPECIAL_TOKENS
from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.head import head_leaves
from osp_jax.methods.parts.method import Method
from osp_jax.methods.parts.options import option
from osp_jax.model import Model
from osp_jax.program.embedding import find_embedding
from osp_jax.program.gates import Gates
from osp_jax.runtime.errors import InputError
from osp_jax.statistics import Statistics
from osp_jax.training.descent import Loss, Optimiser, cycled_batches, descend_from, epoch_batches
from osp_jax.trees import edited, leaves_by_path


@dataclasses.dataclass(frozen=True)
class Steu(Method):
    """Trains the head and the token-embedding rows specific to the class, so that the class is not predicted."""

    sees: ClassVar[tuple[str, ...]] = ("retain", "forget")
    only_for: ClassVar[str] = "a network that reads texts"
    search: ClassVar[Mapping[str, Any]] = {"learning_rate": (0.001, 0.003, 0.01, 0.03)}

    k: int = option(256, "rows of the embedding to train; 0: the head alone", low=0, source="the paper")
    tokens: str = option(
        "score",
        "which rows: of the highest 'score', or the controls: the most 'frequent' in forgotten texts, 'random' ones",
        choices=("score", "frequent", "random"),
        source="the paper",
    )
    head: bool = option(True, "train the head as well; False is the paper's ablation", source="the paper")
    loss: str = option("sigmoid", "form of the probabilities in both losses", choices=("sigmoid", "softmax"))
    over: str = option(
        "target",
        "logits in the loss on forgotten texts: the forgotten class's, or 'all' with labels 0",
        choices=("target", "all"),
        source="ours",
    )
    epochs: int = option(5, "passes over the forgotten texts", low=0, source="the paper")
    min_texts: int = option(3, "fewest forgotten texts in which a token must occur", low=1, source="ours")
    learning_rate: float = option(0.003, "learning rate of Adam", low=0, source="ours")
    batch_size: int = option(64, "forgotten texts in a batch, and retained texts in a batch", low=1, source="ours")
    utility_weight: float = option(
        1.0, "weight of the loss on retained texts", low=0, source="ours; the paper adds both losses"
    )
    embedding: str = option(
        "", "path of the embedding table among the variables; empty: the table in which the program looks up ids"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.k and not self.head:
            raise InputError("option k is 0 and head is False, so nothing would change; set one of them")

    def check(self, model: Model, gates: Gates) -> None:
        """Raises `InputError` for a network of images, or if there is no leaf `embedding`."""
        del gates
        if not model.reads_texts:
            raise InputError(
                "steu edits token embeddings, and this network reads images; give a network of texts, or take "
                "another method"
            )
        if self.embedding and np.ndim(leaves_by_path(model.variables).get(self.embedding)) != 2:
            raise InputError(f"the variables have no table {self.embedding}; correct the option embedding")

    def unlearn(
        self,
        model: Model,
        forget: tuple[int, ...],
        *,
        data: RequestData,
        statistics: Statistics,
        rng: jax.Array,
    ) -> Model:
        """Returns the model with new rows for the chosen tokens, and a new head."""
        self.check(model, statistics.gates)
        draw_key, forget_key, retain_key, step_key = jax.random.split(rng, 4)
        forgotten, retained = data.forget(), data.retain()
        table = self.embedding or find_embedding(model.apply, model.variables, data.images.shape[1])
        leaves, ids = leaves_by_path(model.variables), np.asarray(data.images)
        tokens = chosen_tokens(self, ids[forgotten], ids[retained], leaves[table].shape[0], draw_key)
        head = head_leaves(statistics.gates.head) if self.head else ()
        params = {"rows": leaves[table][tokens], "head": {path: leaves[path] for path in head}}
        batches = {"forget": epoch_batches(forgotten, self.batch_size, self.epochs, forget_key)}
        batches["retain"] = cycled_batches(retained, batches["forget"].shape[1], len(batches["forget"]), retain_key)
        params, _ = descend_from(
            steu_loss(model.apply, data.preparation.without_augmentation(), table, self.loss, self.over),
            params,
            {},
            batches,
            np.full(len(batches["forget"]), self.learning_rate),
            step_key,
            optimiser=Optimiser(name="adam"),
            arguments=(
                data.images,
                model.variables,
                tokens,
                np.isin(np.arange(model.num_classes), forget),
                self.utility_weight,
            ),
        )
        changes = {table: jnp.asarray(leaves[table]).at[tokens].set(params["rows"]), **params["head"]}
        return model.replace(variables=edited(model.variables, changes if len(tokens) else params["head"]))


def token_scores(forgotten: np.ndarray, retained: np.ndarray, vocabulary: int) -> np.ndarray:
    """log2(P(t | forget) / P(t | all)) * log(1 + n(t)) of each token, float64 `(vocabulary,)`; 0 where n(t) is 0.

    Args:
      forgotten, retained: token ids `(texts, length)`; 'all' is both. Special tokens are not counted.
    """
    counts, others = (np.bincount(ids.ravel(), minlength=vocabulary)[:vocabulary] for ids in (forgotten, retained))
    for each in (counts, others):
        each[: len(SPECIAL_TOKENS)] = 0
    every = counts + others
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log2((counts / counts.sum()) / (every / every.sum()))
        return np.where(counts > 0, ratio * np.log1p(counts), 0.0)


def chosen_tokens(
    method: Steu, forgotten: np.ndarray, retained: np.ndarray, vocabulary: int, rng: jax.Array
) -> np.ndarray:
    """The rows to train, int32, at most `k`, ascending; ties go to the lower id. Special tokens are never chosen.

    Tokens occur in at least `min_texts` forgotten texts; 'random' ones are drawn from all tokens of any text.
    """
    texts = np.bincount(np.concatenate([np.zeros(0, int), *map(np.unique, forgotten)]), minlength=vocabulary)
    allowed = texts[:vocabulary] >= method.min_texts
    if method.tokens == "random":
        allowed = np.isin(np.arange(vocabulary), np.concatenate([forgotten.ravel(), retained.ravel()]))
    allowed[: len(SPECIAL_TOKENS)] = False
    allowed = np.flatnonzero(allowed)
    if method.tokens == "random":
        chosen = host_generator(rng).permutation(allowed)[: method.k]
    else:
        counts = np.bincount(forgotten.ravel(), minlength=vocabulary)[:vocabulary]
        of_token = token_scores(forgotten, retained, vocabulary) if method.tokens == "score" else counts
        chosen = allowed[np.argsort(-of_token[allowed], kind="stable")][: method.k]
    return np.sort(chosen).astype(np.int32)


@lru_cache(maxsize=16)
def steu_loss(
    apply: Callable[[Any, jax.Array], jax.Array], preparation: Preparation, table: str, kind: str, over: str
) -> Loss:
    """The loss on forgotten texts plus `utility_weight` times that on retained ones."""
    of_forgotten, of_retained = _LOSSES[kind]

    def loss(
        params: Any,
        rest: Any,
        batch: Any,
        key: jax.Array,
        images: jax.Array,
        variables: Any,
        tokens: jax.Array,
        target: jax.Array,
        utility_weight: jax.Array,
    ) -> Any:
        del key
        rows = leaves_by_path(variables)[table].at[tokens].set(params["rows"])
        new = edited(variables, {table: rows, **params["head"]})
        forgotten, retained = (preparation.plain(images[batch[side]]) for side in ("forget", "retain"))
        away = of_forgotten(apply(new, forgotten), target, over)
        kept = of_retained(apply(new, retained), apply(variables, retained), target)
        return away + utility_weight * kept, rest

    return loss


def _sigmoid_forget(logits: jax.Array, target: jax.Array, over: str) -> jax.Array:
    chosen = target if over == "target" else jnp.ones_like(target)
    return jnp.mean(jax.nn.softplus(logits), where=chosen)


def _sigmoid_utility(logits: jax.Array, original: jax.Array, target: jax.Array) -> jax.Array:
    each = optax.sigmoid_binary_cross_entropy(logits, jax.nn.sigmoid(original))
    return jnp.mean(each, where=~target)


def _softmax_forget(logits: jax.Array, target: jax.Array, over: str) -> jax.Array:
    """-log(1 - p), with p the probability of the classes to forget under the softmax over all logits."""
    del over
    others = jnp.where(target, -jnp.inf, logits)
    return jnp.mean(jax.nn.logsumexp(logits, -1) - jax.nn.logsumexp(others, -1))


def _softmax_utility(logits: jax.Array, original: jax.Array, target: jax.Array) -> jax.Array:
    """Cross-entropy of the softmax over the other classes with the original's."""
    lowest = jnp.finfo(logits.dtype).min
    mine, its = (jnp.where(target, lowest, values) for values in (logits, original))
    return optax.softmax_cross_entropy(mine, jax.nn.softmax(its)).mean()


_LOSSES = {"sigmoid": (_sigmoid_forget, _sigmoid_utility), "softmax": (_softmax_forget, _softmax_utility)}
