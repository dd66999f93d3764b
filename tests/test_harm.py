"""The cost of a request estimated from stored data equals that from the images."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from osp_jax.data.sources import Split
from osp_jax.forward import predict_logits
from osp_jax.harm import Harm, HarmError, check_harm, estimate_harm, methods_to_try
from osp_jax.interop.function import from_function
from osp_jax.methods import Osp, OspFit, unlearn_classes
from osp_jax.model import Model
from osp_jax.runtime.errors import InputError
from osp_jax.statistics import Statistics, collect_statistics
from osp_jax.trees import edited, leaves_by_path
from tests.digits import trained_digits
from tests.zoo import CLASSES, ZOO, image_shape

HEAD, BIAS = "params/head/kernel", "params/head/bias"
SCALE, SHIFT, KERNEL, INNER = "params/bn3/scale", "params/bn3/bias", "params/conv3/kernel", "params/conv2/kernel"


class Digits(NamedTuple):
    model: Model
    images: np.ndarray
    labels: np.ndarray
    statistics: Statistics


@pytest.fixture(scope="module")
def digits() -> Digits:
    trained = trained_digits()
    images, labels = trained.dataset.train.images[:400], trained.dataset.train.labels[:400]
    batches = [(images[start : start + 100], labels[start : start + 100]) for start in range(0, 400, 100)]
    statistics = collect_statistics(trained.model, batches, keep_features=400, cached_inputs=300)
    return Digits(trained.model, images, labels, statistics)


def changed(model, **changes):
    """`model` with other leaves, each a function of the old one, by the names above."""
    leaves = leaves_by_path(model.variables)
    paths = {"head": HEAD, "bias": BIAS, "scale": SCALE, "shift": SHIFT, "kernel": KERNEL, "inner": INNER}
    new = {paths[name]: change(leaves[paths[name]]) for name, change in changes.items()}
    return model.replace(variables=edited(model.variables, new))


def looked_at(digits, after, forget, count=400, gone=()):
    """(forgotten, retained before, retained after) of the first `count` images, by the whole network."""
    labels = digits.labels[:count]
    split = Split(digits.images[:count], labels)
    right = [predict_logits(m, split, np.arange(count)).argmax(-1) == labels for m in (digits.model, after)]
    chosen = np.isin(labels, forget)
    others = ~chosen & ~np.isin(labels, gone)
    return right[1][chosen].mean(), right[0][others].mean(), right[1][others].mean()


def figures(harm):
    return harm.forgotten, harm.retained_before, harm.retained_after


def halved_from(channel):
    """Gains of the last features: 0 for the first `channel`, a half for the others."""
    return jnp.where(jnp.arange(32) < channel, 0.0, 0.5)


CHANGES = {
    "head": ({"head": lambda leaf: leaf * halved_from(12)[:, None]}, "features", 400),
    "bias": ({"bias": lambda leaf: leaf.at[3].set(-jnp.inf)}, "features", 400),
    "gain": ({name: lambda leaf: leaf * halved_from(12) for name in ("scale", "shift")}, "features", 400),
    "gain, erased": (
        {
            **{name: lambda leaf: leaf * halved_from(12) for name in ("scale", "shift")},
            "kernel": lambda leaf: leaf * (halved_from(12) > 0),
            "bias": lambda leaf: leaf.at[3].set(-5.0),
        },
        "features",
        400,
    ),
    "kernel": ({"kernel": lambda leaf: leaf.at[..., :12].add(0.2)}, "cached inputs", 300),
    "negative": ({name: lambda leaf: -leaf for name in ("scale", "shift")}, "cached inputs", 300),
    "kernel and head": (
        {"kernel": lambda leaf: leaf.at[..., :12].add(0.2), "head": lambda leaf: leaf * halved_from(4)[:, None]},
        "cached inputs",
        300,
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_estimate_is_what_the_network_answers_on_the_stored_images(digits, change):
    changes, source, count = CHANGES[change]
    after = changed(digits.model, **changes)

    harm = estimate_harm(digits.model, after, (3,), statistics=digits.statistics)

    assert harm.source == source
    np.testing.assert_allclose(figures(harm), looked_at(digits, after, (3,), count), atol=1e-6)
    assert harm.forget_images == np.sum(digits.labels[:count] == 3)
    assert harm.retain_images == count - harm.forget_images


# Not what a gain on the features does: a sign that the activation would cut, one leaf of two, a layer further in.
OTHERS = {
    "negative": {name: lambda leaf: leaf * -1.0 for name in ("scale", "shift")},
    "half": {"scale": lambda leaf: leaf * halved_from(12)},
    "further in": {"inner": lambda leaf: leaf * 0.7},
}


@pytest.mark.parametrize("change", OTHERS)
def test_what_is_no_gain_is_read_off_images(digits, change):
    after, features_only = changed(digits.model, **OTHERS[change]), digits.statistics.replace(cached_inputs=())
    with pytest.raises(InputError, match="cannot be estimated"):
        estimate_harm(digits.model, after, (3,), statistics=features_only)

    given = {"images": digits.images, "labels": digits.labels}
    harm = estimate_harm(digits.model, after, (3,), statistics=features_only, **given)

    assert harm.source == "images"
    np.testing.assert_allclose(figures(harm), looked_at(digits, after, (3,)), atol=1e-6)


def test_images_alone_are_enough(digits):
    after = changed(digits.model, bias=lambda leaf: leaf.at[3].set(-jnp.inf))
    harm = estimate_harm(digits.model, after, (3,), images=digits.images, labels=digits.labels)
    assert harm.source == "images"
    assert harm.forgotten == 0


def test_of_many_images_a_sample_is_looked_at(digits):
    images, labels = np.tile(digits.images, (6, 1, 1, 1)), np.tile(digits.labels, 6)
    harm = estimate_harm(digits.model, digits.model, (3, 4, 5), images=images, labels=labels)
    assert (harm.retain_images, harm.forget_images) == (1000, 500)


def test_classes_that_were_forgotten_before_count_on_neither_side(digits):
    before = digits.model.replace(forgotten=(7,))
    after = changed(before, bias=lambda leaf: leaf.at[jnp.array([3, 7])].set(-jnp.inf))
    harm = estimate_harm(before, after, (3,), images=digits.images, labels=digits.labels)
    np.testing.assert_allclose(figures(harm), looked_at(digits, after, (3,), gone=(7,)), atol=1e-6)


def test_statistics_from_before_an_earlier_request_are_not_trusted(digits):
    before = digits.model.replace(forgotten=(7,))
    after = changed(before, bias=lambda leaf: leaf.at[jnp.array([3, 7])].set(-jnp.inf))
    with pytest.raises(InputError, match="cannot be estimated"):
        estimate_harm(before, after, (3,), statistics=digits.statistics)


def test_a_network_that_answers_nothing_finite_recognises_nothing(digits):
    after = changed(digits.model, bias=lambda leaf: leaf * jnp.nan)
    harm = estimate_harm(digits.model, after, (3,), statistics=digits.statistics)
    assert (harm.forgotten, harm.retained_after) == (0, 0)


def test_nothing_stored_of_one_side_is_stated(digits):
    of_others = digits.statistics.without((3,))
    with pytest.raises(InputError, match="--data_dir"):
        estimate_harm(digits.model, digits.model, (3,), statistics=of_others)
    kept = digits.labels != 3
    with pytest.raises(InputError, match="--data_dir"):
        estimate_harm(digits.model, digits.model, (3,), images=digits.images[kept], labels=digits.labels[kept])


HARMFUL = {
    "still recognised": Harm(0.02, 0.9, 0.9, 100, 900, "features"),
    "worse": Harm(0, 0.9, 0.87, 100, 900, "images"),
}


@pytest.mark.parametrize("kind", HARMFUL)
def test_harm_above_the_limits_is_refused_in_one_line(kind):
    harm = HARMFUL[kind]
    with pytest.raises(HarmError) as refused:
        check_harm(harm, suggestions=("osp-fit", "logit-mask"), result="the model")
    message = str(refused.value)
    assert "\n" not in message
    for part in (f"{100 * harm.forgotten:.1f}%", "limit 1%", "90.0%", "2 points", "osp-fit or logit-mask", "--accept"):
        assert part in message
    assert refused.value.exit_code == 3
    assert (refused.value.harm, refused.value.result) == (harm, "the model")


@pytest.mark.parametrize("harm", HARMFUL.values())
def test_wider_limits_let_it_pass(harm):
    check_harm(harm, max_retained_drop=3, max_forgotten=2)


@pytest.mark.parametrize("limit", [-1, float("nan"), "2", True, None])
def test_a_limit_that_is_no_number_is_refused(limit):
    harm = HARMFUL["worse"]
    for name in ("max_retained_drop", "max_forgotten"):
        with pytest.raises(InputError, match=name):
            check_harm(harm, **{name: limit})


def test_the_method_that_failed_is_not_suggested(digits):
    names = methods_to_try(digits.model, digits.statistics, "osp-fit")
    assert names
    assert "osp-fit" not in names
    assert "osp-fit" in methods_to_try(digits.model, digits.statistics, "osp")


@pytest.fixture(scope="module")
def zoo_model():
    @functools.cache
    def found(network):
        apply, variables = ZOO[network]()
        draw = np.random.default_rng(0)
        images, labels = (
            draw.integers(0, 256, (100, *image_shape(network)), np.uint8),
            (np.arange(100) % CLASSES).astype(np.int32),
        )
        names = list("abcde")
        model = from_function(apply, variables, mean=(0.5,) * 3, std=(0.3,) * 3, class_names=names)
        statistics = collect_statistics(model, [(images, labels)], keep_features=100)
        return model, statistics, images, labels

    return found


@pytest.mark.parametrize("network", ["tutorial_cnn", "preact_resnet", "densenet", "vit", "nnx_cnn"])
@pytest.mark.parametrize(
    "method", [Osp(amount=0.5), OspFit(steps=20), OspFit(steps=20, place="head")], ids=["osp", "fit", "fit head"]
)
def test_stored_features_tell_of_any_network_what_images_do(network, method, zoo_model):
    model, statistics, images, labels = zoo_model(network)
    after = unlearn_classes(method, model, (1,), statistics=statistics, rng=jax.random.key(0))

    stored = estimate_harm(model, after, (1,), statistics=statistics)
    seen = estimate_harm(model, after, (1,), images=images, labels=labels)

    assert (stored.source, seen.source) == ("features", "images")
    np.testing.assert_allclose(figures(stored), figures(seen), atol=0.02)  # an image may stand between two classes
