"""The library as users call it: models of Linen, NNX and plain functions, arrays of images."""

import json
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import osp_jax
from osp_jax.data.sources import Dataset
from osp_jax.methods import LogitMask, Osp, OspFit, Scrub
from tests.digits import DigitsNet, trained_digits

NAMES = tuple("zero one two three four five six seven eight nine".split())


class NnxDigits(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 8, (3, 3), use_bias=False, rngs=rngs)
        self.bn1 = nnx.BatchNorm(8, momentum=0.9, rngs=rngs)
        self.conv2 = nnx.Conv(8, 16, (3, 3), strides=2, padding=1, use_bias=False, rngs=rngs)
        self.bn2 = nnx.BatchNorm(16, momentum=0.9, rngs=rngs)
        self.conv3 = nnx.Conv(16, 32, (3, 3), use_bias=False, rngs=rngs)
        self.bn3 = nnx.BatchNorm(32, momentum=0.9, rngs=rngs)
        self.head = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, images):
        x = nnx.relu(self.bn1(self.conv1(images)))
        x = nnx.relu(self.bn2(self.conv2(x)))
        x = nnx.relu(self.bn3(self.conv3(x)))
        return self.head(x.mean(axis=(1, 2)))


def by_hand(layers: Any, images: jax.Array) -> jax.Array:
    """The same network in plain JAX: a list of (kernel, scale, bias) and a head."""
    x = images
    for (kernel, scale, bias), stride in zip(layers["convolutions"], (1, 2, 1), strict=True):
        sides = {"padding": [(1, 1), (1, 1)], "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
        x = lax.conv_general_dilated(x, kernel, (stride, stride), **sides)
        x = jax.nn.relu(x * scale + bias)
    return x.mean((1, 2)) @ layers["head"][0] + layers["head"][1]


def linen(variables: Any, given: dict[str, Any]) -> osp_jax.Model:
    return osp_jax.from_linen(DigitsNet(), variables, **given)


def from_nnx(variables: Any, given: dict[str, Any]) -> osp_jax.Model:
    module = NnxDigits(nnx.Rngs(0))
    params, stats = variables["params"], variables["batch_stats"]
    for number in (1, 2, 3):
        norm = getattr(module, f"bn{number}")
        getattr(module, f"conv{number}").kernel[...] = params[f"conv{number}"]["kernel"]
        norm.scale[...], norm.bias[...] = params[f"bn{number}"]["scale"], params[f"bn{number}"]["bias"]
        norm.mean[...], norm.var[...] = stats[f"bn{number}"]["mean"], stats[f"bn{number}"]["var"]
    module.head.kernel[...], module.head.bias[...] = params["head"]["kernel"], params["head"]["bias"]
    return osp_jax.from_nnx(module, **given)


def from_function(variables: Any, given: dict[str, Any]) -> osp_jax.Model:
    params, stats, convolutions = variables["params"], variables["batch_stats"], []
    for number in (1, 2, 3):
        norm, moments = params[f"bn{number}"], stats[f"bn{number}"]
        scale = norm["scale"] / jnp.sqrt(moments["var"] + 1e-5)
        convolutions.append((params[f"conv{number}"]["kernel"], scale, norm["bias"] - moments["mean"] * scale))
    layers = {"convolutions": convolutions, "head": (params["head"]["kernel"], params["head"]["bias"])}
    return osp_jax.from_function(by_hand, layers, **given)


KINDS = {"linen": linen, "nnx": from_nnx, "function": from_function}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return trained_digits().dataset


@pytest.fixture(scope="module")
def models() -> dict[str, osp_jax.Model]:
    trained = trained_digits()
    given = {"mean": trained.model.mean, "std": trained.model.std, "class_names": NAMES}
    return {kind: build(trained.model.variables, given) for kind, build in KINDS.items()}


@pytest.fixture(scope="module")
def model(models):
    return models["linen"]


@pytest.fixture(scope="module")
def statistics(model, digits):
    return osp_jax.collect_statistics(model, digits.train.images, digits.train.labels)


def accuracies(model, split, forgotten):
    """(forgotten, others), with images normalised as the network was trained, by `model.apply` alone."""
    inputs = (split.images.astype(np.float32) / 255 - np.float32(model.mean)) / np.float32(model.std)
    right, chosen = (
        np.asarray(model.apply(model.variables, inputs)).argmax(-1) == split.labels,
        split.labels == forgotten,
    )
    return right[chosen].mean(), right[~chosen].mean()


# What users do


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_is_forgotten_and_the_others_stay(kind, models, digits):
    model = models[kind]
    statistics = osp_jax.collect_statistics(model, digits.train.images, digits.train.labels)
    result = osp_jax.unlearn(model, forget=["three"], method="osp-fit", statistics=statistics)

    assert result.model.forgotten == (3,)
    assert model.forgotten == ()
    (was, others_were), (now, others_are) = (accuracies(m, digits.test, 3) for m in (model, result.model))
    assert was > 0.9
    assert now == 0
    assert others_are > others_were - 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_an_audit_of_any_model_becomes_a_page(kind, models, digits, tmp_path):
    model = models[kind]
    train, test = digits.train, digits.test
    statistics = osp_jax.collect_statistics(model, train.images, train.labels)
    result = osp_jax.unlearn(model, [3], LogitMask(), statistics=statistics)
    data = (train.images, train.labels, test.images, test.labels)

    audit = osp_jax.audit(model, result.model, data, request=result.report, name="digits")

    report = json.loads(json.dumps(audit.report, allow_nan=False))
    assert report["forget"] == [3]
    assert report["unlearned"]["test_forget_accuracy"] == 0
    assert report["original"]["test_forget_accuracy"] == pytest.approx(accuracies(model, test, 3)[0], abs=1e-6)
    for question in ("membership", "relearning", "probes", "representation", "recovery"):
        assert report["unlearned"]["measures"][question]
    audit.to_html(tmp_path / "report.html")
    assert "three" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert audit.to_markdown(tmp_path / "report.md") == (tmp_path / "report.md").read_text(encoding="utf-8")


def test_the_report_says_what_was_asked_and_what_it_cost(model, statistics):
    report = osp_jax.unlearn(model, "three", OspFit(margin=2.0), statistics=statistics).report

    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["method"] == "osp-fit"
    assert report["options"]["margin"] == 2
    assert (report["forget"], report["forget_names"], report["forgotten"]) == ([3], ["three"], [3])
    assert report["harm"]["source"] == "features"
    assert report["harm"]["forgotten"] <= 0.01
    assert report["harm"]["max_retained_drop"] == 2
    assert report["statistics_stored"]
    assert report["parameters_changed"] > 0
    assert report["seconds"]["cold"] > 0


def test_a_mask_sees_no_image(model, statistics):
    seen = osp_jax.unlearn(model, [3], statistics=statistics).data_seen
    assert seen["request"] == {"train": {}}
    assert sum(seen["statistics"]["train"].values()) > 1000


@pytest.mark.slow
def test_cached_inputs_stand_in_for_images(model, digits):
    train = digits.train
    statistics = osp_jax.collect_statistics(model, train.images, train.labels, features=400, cached_inputs=400)
    result = osp_jax.unlearn(model, [3], "concept-erasure", statistics=statistics)
    assert result.data_seen["request"] == {"train": {}}
    assert result.report["harm"]["source"] == "cached inputs"
    assert accuracies(result.model, digits.test, 3)[0] < 0.05


def test_statistics_are_collected_from_data_where_none_are_given(model, digits):
    result = osp_jax.unlearn(model, [3], "logit-mask", data=(digits.train.images, digits.train.labels))
    assert not result.report["statistics_stored"]
    assert accuracies(result.model, digits.test, 3)[0] == 0


def test_a_method_that_trains_takes_images_within_a_budget(model, statistics, digits):
    data = (digits.train.images, digits.train.labels)
    given = {"statistics": statistics, "data": data, "retain_per_class": 5, "forget_per_class": 4, "pad": 1}
    result = osp_jax.unlearn(model, [3], Scrub(epochs=1), **given, accept=True)
    seen = result.data_seen["request"]["train"]
    assert max(seen.values()) <= 5
    assert result.report["budget"] == {"retain_per_class": 5, "forget_per_class": 4}
    assert result.report["harm"]["source"] == "images"


def test_a_second_request_keeps_the_first(model, statistics, digits):
    first = osp_jax.unlearn(model, [3], statistics=statistics)
    data = (digits.train.images, digits.train.labels)  # the statistics are of the network before the first
    second = osp_jax.unlearn(first.model, [7], statistics=statistics, data=data)
    assert second.model.forgotten == (3, 7)
    assert second.report["harm"]["source"] == "images"
    for forgotten in (3, 7):
        assert accuracies(second.model, digits.test, forgotten)[0] == 0


def test_the_same_seed_gives_the_same_model(model, statistics):
    first, again = (osp_jax.unlearn(model, [3], statistics=statistics, seed=5).model.variables for _ in range(2))
    assert jax.tree.all(jax.tree.map(np.array_equal, first, again))


# Harm


HARMFUL = Osp(amount=1.0)


def test_a_model_that_is_harmed_is_not_handed_back(model, statistics):
    with pytest.raises(osp_jax.HarmError) as refused:
        osp_jax.unlearn(model, [3], HARMFUL, statistics=statistics)

    error = refused.value
    assert isinstance(error, osp_jax.InputError)
    assert error.harm.retained_drop > 2
    assert "osp-fit" in str(error)
    assert "accept=True" in str(error)
    assert error.result.model.forgotten == (3,)
    assert error.result.report["harm"]["retained_after"] == error.harm.retained_after


def test_harm_that_is_accepted_or_within_the_limits_passes(model, statistics):
    accepted = osp_jax.unlearn(model, [3], HARMFUL, statistics=statistics, accept=True)
    assert accepted.report["harm"]["accepted"]
    limits = {"max_retained_drop": 100, "max_forgotten": 100}
    assert not osp_jax.unlearn(model, [3], HARMFUL, statistics=statistics, **limits).report["harm"]["accepted"]


def test_harm_that_cannot_be_estimated_asks_for_data(model, digits):
    without = osp_jax.collect_statistics(model, digits.train.images, digits.train.labels, features=0)
    with pytest.raises(osp_jax.InputError, match="cannot be estimated"):
        osp_jax.unlearn(model, [3], "logit-mask", statistics=without)
    assert (
        osp_jax.unlearn(model, [3], "logit-mask", statistics=without, accept=True).report["harm"]["forgotten"] is None
    )


# Misuse: one line that says what to do


def one_line(action, words):
    with pytest.raises(osp_jax.InputError) as refused:
        action()
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


UINT8, LABELS = np.zeros((4, 8, 8, 1), np.uint8), np.arange(4)
STATISTICS_MISUSE = {
    "floats": ({"images": np.zeros((4, 8, 8, 1), np.float32)}, "give uint8"),
    "one image": ({"images": UINT8[0], "labels": LABELS[:1]}, "give uint8 (n, height, width, channels)"),
    "channels first": ({"images": np.zeros((4, 1, 8, 8), np.uint8)}, "cannot be applied"),
    "no images": ({"images": UINT8[:0], "labels": LABELS[:0]}, "there are no images"),
    "a text": ({"images": "images"}, "images are"),
    "fewer labels": ({"labels": LABELS[:3]}, "a class number for each of the 4 images"),
    "float labels": ({"labels": LABELS / 2}, "a class number for each"),
    "one-hot labels": ({"labels": np.eye(4, dtype=int)}, "a class number for each"),
    "a negative label": ({"labels": LABELS - 1}, "class numbers from 0"),
    "a large label": ({"labels": LABELS + 9}, "class numbers from 0 to 9"),
    "a batch of none": ({"batch_size": 0}, "batch_size is 0"),
    "half a feature": ({"features": 0.5}, "features is 0.5"),
    "a seed below 0": ({"seed": -1}, "seed is -1"),
    "a module": ({"model": DigitsNet()}, "from_linen"),
}


@pytest.mark.parametrize("case", STATISTICS_MISUSE)
def test_misuse_of_collect_statistics_is_reported(case, model):
    given, words = STATISTICS_MISUSE[case]
    given = {"model": model, "images": UINT8, "labels": LABELS} | given
    one_line(lambda: osp_jax.collect_statistics(**given), words)


UNLEARN_MISUSE = {
    "an unknown name": ({"forget": ["cat"]}, "unknown class 'cat'; choose one of: zero"),
    "an unknown number": ({"forget": [10]}, "there is no class 10"),
    "no class": ({"forget": []}, "no class to forget"),
    "all classes": ({"forget": range(10)}, "all 10 classes"),
    "a number that is none": ({"forget": [2.5]}, "no class number"),
    "nothing to go through": ({"forget": 2.5}, "give names or numbers"),
    "an unknown method": ({"method": "ospfit"}, "unknown method 'ospfit'"),
    "a class of methods": ({"method": OspFit}, "OspFit()"),
    "a number as method": ({"method": 3}, "give a name, such as 'osp-fit'"),
    "images as statistics": ({"statistics": UINT8}, "collect_statistics"),
    "neither statistics nor data": ({"statistics": None}, "give statistics="),
    "images that are missing": ({"method": "scrub"}, "give data=(images, labels)"),
    "images alone": ({"data": UINT8}, "data must be (images, labels)"),
    "another network's images": ({"data": (np.zeros((4, 8, 8, 3), np.uint8), LABELS)}, "cannot be applied"),
    "a negative budget": ({"retain_per_class": -1}, "retain_per_class is -1"),
    "a limit of words": ({"max_forgotten": "1%"}, "max_forgotten"),
    "accepting with a word": ({"accept": "yes"}, "accept is 'yes'"),
    "an unknown padding": ({"pad_mode": "mirror"}, "unknown pad_mode"),
    "a negative padding": ({"pad": -1}, "pad is -1"),
    "a recipe of words": ({"recipe": "fast"}, "recipe is 'fast'"),
    "a seed that is none": ({"seed": 1.5}, "seed is 1.5"),
    "variables as model": ({"model": {}}, "from_linen"),
}


@pytest.mark.parametrize("case", UNLEARN_MISUSE)
def test_misuse_of_unlearn_is_reported(case, model, statistics):
    given, words = UNLEARN_MISUSE[case]
    given = {"model": model, "forget": [3], "statistics": statistics} | given
    one_line(lambda: osp_jax.unlearn(**given), words)


def test_statistics_without_the_class_are_reported(model, statistics, digits):
    one_line(lambda: osp_jax.unlearn(model, [3], statistics=statistics.without([3])), "no example of class three (3)")
    others = [c for c in range(10) if c != 3]
    one_line(
        lambda: osp_jax.unlearn(model, [3], statistics=statistics.without(others)), "no example of the other classes"
    )


def test_a_class_that_is_forgotten_already_is_reported(model, statistics):
    gone = model.replace(forgotten=(3,))
    one_line(lambda: osp_jax.unlearn(gone, ["three"], statistics=statistics), "forgotten already")


def test_a_method_that_trains_needs_a_network_that_can(models, digits):
    data = (digits.train.images, digits.train.labels)
    one_line(lambda: osp_jax.unlearn(models["function"], [3], "scrub", data=data), "train_apply")


def test_a_network_of_other_images_or_classes_is_reported(model, digits):
    small = UINT8.repeat(3, axis=3)
    wrong = model.replace(mean=(0.5,) * 3, std=(0.5,) * 3)
    one_line(lambda: osp_jax.collect_statistics(wrong, small, LABELS), "cannot be applied to images of shape (8, 8, 3)")
    fewer = model.replace(class_names=NAMES[:9])
    one_line(lambda: osp_jax.collect_statistics(fewer, UINT8, LABELS), "a logit for each class")


AUDIT_MISUSE = {
    "two arrays": ({"data": (UINT8, LABELS)}, "train_images, train_labels, test_images, test_labels"),
    "images of two shapes": ({"data": (UINT8, LABELS, np.zeros((4, 9, 9, 1), np.uint8), LABELS)}, "one shape"),
    "floats": ({"data": (UINT8, LABELS, UINT8 / 2, LABELS)}, "give uint8"),
    "an unknown level": ({"level": "deep"}, "unknown level 'deep'"),
    "a module as reference": ({"reference": DigitsNet()}, "reference is"),
}


@pytest.mark.parametrize("case", AUDIT_MISUSE)
def test_misuse_of_audit_is_reported(case, model):
    given, words = AUDIT_MISUSE[case]
    given = {"model": model, "unlearned": model.replace(forgotten=(3,)), "data": (UINT8, LABELS) * 2} | given
    one_line(lambda: osp_jax.audit(**given), words)


def test_an_audit_needs_a_request(model):
    one_line(lambda: osp_jax.audit(model, model, (UINT8, LABELS) * 2), "forgotten no class")


def test_an_audit_takes_models_of_the_same_classes(model):
    other = model.replace(class_names=tuple("abcdefghij"), forgotten=(3,))
    one_line(lambda: osp_jax.audit(model, other, (UINT8, LABELS) * 2), "other classes")


# Images


def test_images_are_read_by_name(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((6, 4, 4), np.uint8), y=np.arange(6) % 2)
    data = osp_jax.load_data(
        f"npz:{tmp_path / 'a.npz'}", channels=3, class_names=["cat, tame", 'a "dog"'], validation=0.3
    )
    assert data.class_names == ("cat, tame", 'a "dog"')
    assert (data.train.images.shape, data.test.images.shape) == ((4, 4, 4, 3), (2, 4, 4, 3))
    one_line(
        lambda: osp_jax.load_data("nothing of this kind"), "folder:PATH for images in folders, npz:FILE, or text:FILE"
    )
    one_line(lambda: osp_jax.load_data("digits", channels=2), "data.channels is 2; give 0, 1 or 3")
    one_line(lambda: osp_jax.load_data(3), "data.name is 3; give 'digits'")


# Names


def test_importing_the_library_imports_no_jax():
    code = (
        "import sys, osp_jax; dir(osp_jax); osp_jax.audit; print(sorted({'jax', 'flax', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_public_name_is_there():
    for name in osp_jax.__all__:
        assert getattr(osp_jax, name) is not None


def test_the_audit_package_can_be_called_whatever_was_imported_before():
    code = "import osp_jax.audit.measure; from osp_jax import audit; print(callable(audit), audit is osp_jax.audit)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True True\n"
