"""Representation: does the network work like one that never saw the class?

All measures are on forgotten test images: features and outputs of the model compared with those of the original and of
the retrained network.
"""

from collections.abc import Mapping

import numpy as np
from scipy import stats
from scipy.special import softmax

from osp_jax.audit.measure import Measure, mean, measure, no_value
from osp_jax.audit.subject import Look
from osp_jax.model import Model
from osp_jax.program.candidates import module_of
from osp_jax.trees import leaves_by_path

NO_INIT = "the model has no init to draw random parameters"


def representation(
    look: Look,
    model: Model,
    others: Mapping[str, tuple[Look, Model]],
    random: Look | None,
    stage: str,
) -> tuple[dict[str, Measure], dict[str, dict[str, float]]]:
    """Measures by name, and the similarity (CKA) of each stage to each other model, for a figure.

    Args:
      look: of `model`, on forgotten test images.
      others: 'original' and, if there is one, 'retrained': (its look on the same images, the model).
      random: the look of a network with random parameters; None if there is none.
      stage: the stage whose similarity is a measure.
    """
    measures: dict[str, Measure] = {}
    similarities = {}
    for name, (other, _) in others.items():
        # Close to the original: the class is left. Far from the retrained: inconclusive.
        high, low = ("high", "low") if name == "original" else (None, None)
        similarities[name] = {s: cka(look.features[s], other.features[s]) for s in look.features}
        pair = look.features[stage], other.features[stage]
        measures[f"cka_to_{name}_{stage}"] = similarity(*pair, leak=high)
        measures[f"activation_distance_to_{name}"] = mean(activation_distance(look.logits, other.logits), leak=low)
        measures[f"js_divergence_to_{name}"] = mean(js_divergence(look.logits, other.logits), leak=low)
    measures["zrf"] = (
        no_value(NO_INIT, leak="low")
        if random is None
        else mean(1 - js_divergence(look.logits, random.logits), leak="low")
    )
    for layer, distance in weight_distances(model, others["original"][1]).items():
        measures[f"weight_distance_{layer}"] = measure(distance)
    return measures, similarities


def cka(x: np.ndarray, y: np.ndarray) -> float:
    """Linear centred kernel alignment of features `(n, c)` and `(n, d)` (Kornblith et al., ICML 2019).

    It uses the unbiased estimate of HSIC (Song et al., JMLR 2012, eq. 5), for which n > 3 may be smaller than c. It can
    be slightly below 0. It is 0 if one side does not vary.
    """
    kernels = [_kernel(features) for features in (x, y)]
    own = [_hsic(k, k) for k in kernels]
    return float(_hsic(*kernels) / np.sqrt(own[0] * own[1])) if min(own) > 1e-12 else 0.0


def _kernel(features: np.ndarray) -> np.ndarray:
    features = np.asarray(features, np.float64)
    kernel = features @ features.T
    np.fill_diagonal(kernel, 0)
    return kernel


def _hsic(k: np.ndarray, m: np.ndarray) -> float:
    n = len(k)
    rows, columns = k.sum(1), m.sum(1)
    total = (k * m).sum() + rows.sum() * columns.sum() / ((n - 1) * (n - 2)) - 2 * rows @ columns / (n - 2)
    return total / (n * (n - 3))


def activation_distance(logits: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Euclidean distance of the probabilities, `(n,)` (Chundawat et al., AAAI 2023)."""
    return np.linalg.norm(softmax(logits, -1) - softmax(others, -1), axis=-1)


def js_divergence(logits: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence of the probabilities in nats, `(n,)`, from 0 to log 2."""
    p, q = (softmax(np.asarray(side, np.float64), -1) for side in (logits, others))
    middle = (p + q) / 2

    def divergence(a: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(a > 0, a * np.log(a / middle), 0).sum(-1)

    return (divergence(p) + divergence(q)) / 2


def weight_distances(model: Model, original: Model) -> dict[str, float]:
    """Norm of the change of each layer's parameters over the norm of the original's, by layer path (without the name of
    Linen's collection 'params'). A parameter outside any layer, such as an embedding table, counts as one."""
    mine, its = leaves_by_path(model.variables), leaves_by_path(original.variables)
    layers: dict[str, list[str]] = {}
    for path in filter(original.is_parameter, its):
        inner = path.removeprefix("params/")
        layer = (inner.rpartition("/")[0] or inner) if "/" in path else module_of(path)
        layers.setdefault(layer, []).append(path)
    found: dict[str, float] = {}
    for layer, paths in layers.items():
        change, size = (
            sum(float(np.sum(np.square(np.float64(value)))) for value in values)
            for values in ([mine[p] - its[p] for p in paths], [its[p] for p in paths])
        )
        found[layer] = float(np.sqrt(change / size)) if size else 0.0
    return found


def similarity(x: np.ndarray, y: np.ndarray, *, leak: str | None = None) -> Measure:
    """`cka` with a jackknife interval over images; None for fewer than 5 images.

    A bootstrap is biased here: an image that is drawn twice counts as agreement, and without the second draw the
    samples are smaller than the original one.
    """
    if len(x) < 5:
        return measure(None, None, len(x), leak=leak)
    value, without = cka(x, y), cka_without_each(x, y)
    pseudo = len(x) * value - (len(x) - 1) * without
    half = stats.t.ppf(0.975, len(x) - 1) * np.std(pseudo, ddof=1) / np.sqrt(len(x))
    return measure(value, (value - half, value + half), len(x), leak=leak, parts=[pseudo])


def cka_without_each(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`cka` without each single image, `(n,)`; x `(n, c)`, y `(n, d)`, n > 4."""
    k, m = (_kernel(features) for features in (x, y))
    own = [_hsic_without_each(kernel, kernel) for kernel in (k, m)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.minimum(*own) > 1e-12, _hsic_without_each(k, m) / np.sqrt(own[0] * own[1]), 0.0)


def _hsic_without_each(k: np.ndarray, m: np.ndarray) -> np.ndarray:
    """`_hsic` without row and column i, for each i, from the sums over all: O(n^2) in total."""
    n, rows, columns = len(k) - 1, k.sum(1), m.sum(1)
    both = (k * m).sum(1)
    inner = both.sum() - 2 * both
    totals = (rows.sum() - 2 * rows) * (columns.sum() - 2 * columns)
    products = rows @ columns - rows * columns - k @ columns - m @ rows + both
    return (inner + totals / ((n - 1) * (n - 2)) - 2 * products / (n - 2)) / (n * (n - 3))
