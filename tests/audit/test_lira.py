"""Likelihood-ratio attacks: by hand, on drawn statistics with and without a leak, and on overfitted models."""

import shutil

import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict
from scipy import stats
from scipy.special import softmax

from configs import default
from osp_jax.audit import lira as attacks
from osp_jax.audit.lira import lira, lira_offline, retrained_control, scaled_confidence, u_lira
from osp_jax.audit.shadow import sets
from osp_jax.audit.shadow import statistics as shadow_statistics
from osp_jax.audit.shadow.pool import draw_keep
from osp_jax.audit.shadow.sets import find_shadows
from osp_jax.audit.shadow.statistics import ShadowRequest, forgotten_images, statistics_folder, unlearn_shadows
from osp_jax.audit.shadow.statistics import shadow_statistics as statistics_of
from osp_jax.audit.shadow.train import train_shadows
from osp_jax.data.sources import Split, load_dataset
from osp_jax.methods.finetune import Finetune
from osp_jax.methods.logit_mask import LogitMask
from osp_jax.methods.osp import Osp
from osp_jax.runtime.errors import InputError

NUMBER, IMAGES = 16, 300
NAMES = ("auc", "balanced_accuracy", "tpr_at_1_percent_fpr", "tpr_at_0_1_percent_fpr")


def drawn(seed: int = 0, shape: tuple[int, int] = (NUMBER, IMAGES)) -> np.ndarray:
    """Statistics of models that know nothing of the images but how hard each is."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape) + 3 * rng.normal(size=shape[1])


@pytest.fixture(scope="module")
def keep() -> np.ndarray:
    return draw_keep(np.zeros(IMAGES, int), NUMBER, seed=3)


# The statistic.


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-12, 12), min_size=2, max_size=6), st.floats(-50, 50))
def test_the_statistic_is_the_log_odds_of_the_true_class_and_ignores_a_common_shift(logits, shift):
    p = softmax(np.array(logits))[0]
    if 1e-9 < p < 1 - 1e-9:
        found = scaled_confidence(np.array([logits]), np.array([0]))
        np.testing.assert_allclose(found, np.log(p / (1 - p)), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found, scaled_confidence(np.array([logits]) + shift, np.array([0])), atol=1e-9)


def test_the_statistic_is_exact_where_a_probability_would_round_to_one_and_finite_where_it_is_zero():
    inf = np.inf
    logits = np.array([[80.0, 0], [-inf, 0], [0, -inf], [1e9, 0], [-1e9, 0], [-inf, -inf], [np.nan, 0]], np.float32)
    found = scaled_confidence(logits, np.zeros(7, int))
    assert found.dtype == np.float64
    assert found.tolist() == [80, -1000, 1000, 1000, -1000, -1000, -1000]


# LiRA.


def test_a_likelihood_ratio_by_hand(monkeypatch):
    keep = np.array([[1, 0, 1], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 0, 1]], bool)
    phi = np.array([[3.0, 0, 0], [4, 5, 0], [0, 6, 0], [1, 2, 0], [6, 7, 0], [3, 1, 0]])
    inside, outside = np.zeros((6, 3), bool), np.zeros((6, 3), bool)
    inside[[1, 4], 0] = outside[[2, 5], 0] = inside[[1, 4], 1] = outside[[3, 5], 1] = True
    monkeypatch.setattr(attacks, "_sides", lambda *_: (inside, outside))
    seen = {}
    monkeypatch.setattr(attacks, "_attack", lambda name, score, *_: seen.setdefault(name, score(0, ())))

    lira(phi, keep, variance="per-example")
    wanted = [  # mean and standard deviation of 4 and 6 against 0 and 3; of 5 and 7 against 2 and 1
        stats.norm.logpdf(3, 5, 2**0.5) - stats.norm.logpdf(3, 1.5, 4.5**0.5),
        stats.norm.logpdf(0, 6, 2**0.5) - stats.norm.logpdf(0, 1.5, 0.5**0.5),
    ]
    np.testing.assert_allclose(seen["lira"][0][:2], wanted)
    assert seen["lira"][1].tolist() == [True, False, True]
    lira_offline(phi, keep, variance="global")
    np.testing.assert_allclose(seen["lira_offline"][0][:2], np.array([3 - 1.5, 0 - 1.5]) / ((4.5 + 0.5) / 2) ** 0.5)


@pytest.mark.parametrize("variance", ["global", "per-example"])
@pytest.mark.parametrize(("attack", "name"), [(lira, "lira"), (lira_offline, "lira_offline")])
def test_members_with_higher_statistics_are_reported(attack, name, variance, keep):
    measures, roc = attack(drawn() + 3 * keep, keep, variance=variance)
    assert list(measures) == [f"{name}_{what}" for what in NAMES]
    auc, balanced, at_1, at_01 = measures.values()
    assert auc["value"] > 0.9
    assert balanced["value"] > 0.8
    assert at_1["value"] > at_01["value"] > 0.05
    for found in measures.values():
        assert found["leak"] == "high"
        assert found["n"] == NUMBER * IMAGES
        assert 0 <= found["ci95"][0] <= found["value"] <= found["ci95"][1] <= 1
    assert len(roc["fpr"]) == len(roc["tpr"]) <= 200
    assert (np.diff(roc["fpr"]) >= 0).all()
    assert (np.diff(roc["tpr"]) >= 0).all()
    assert (roc["fpr"][-1], roc["tpr"][-1]) == (1, 1)


@pytest.mark.parametrize("number", [4, 6, NUMBER])
@pytest.mark.parametrize("attack", [lira, lira_offline])
def test_statistics_that_know_nothing_give_one_half(attack, number):
    """Also with few models, where leaving out the target on its own side would give it away."""
    images = 2000
    keep = draw_keep(np.zeros(images, int), number, seed=1)
    auc, balanced, *_ = attack(drawn(2, (number, images)), keep).measures.values()
    assert abs(auc["value"] - 0.5) < 0.015
    assert abs(balanced["value"] - 0.5) < 0.015


def test_both_sides_have_equally_many_models_and_never_the_target(keep):
    for left_out in ((0,), (5,), (2, 7)):
        inside, outside = attacks._sides(keep, left_out, 0)
        assert (inside.sum(0) == outside.sum(0)).all()
        assert inside.sum(0).min() >= NUMBER // 2 - 2
        assert not (inside & ~keep).any()
        assert not (outside & keep).any()
        assert not inside[list(left_out)].any()
        assert not outside[list(left_out)].any()


def test_a_rate_that_too_few_scores_could_show_is_null():
    keep = draw_keep(np.zeros(30, int), 8, seed=0)  # 120 scores of images that were not seen
    measures = lira(drawn(0, (8, 30)) + 3 * keep, keep).measures
    assert measures["lira_tpr_at_1_percent_fpr"]["value"] is not None
    assert measures["lira_tpr_at_0_1_percent_fpr"]["value"] is None


def test_a_masked_class_tells_nothing_of_membership(keep):
    """Its statistics are all the same, so no Gaussian has a spread."""
    for attack in (lira, lira_offline):
        auc, balanced, *_ = attack(np.full((NUMBER, IMAGES), -1000.0), keep).measures.values()
        assert auc["value"] == balanced["value"] == 0.5
        assert auc["ci95"] == [0.5, 0.5]


# U-LiRA.


def test_unlearning_that_ends_like_retraining_gives_one_half(keep):
    unlearned, retrained = np.split(drawn(1, (2 * NUMBER, IMAGES)), 2)  # of the same images
    auc, balanced, *_ = u_lira(unlearned, retrained, keep).measures.values()
    assert abs(auc["value"] - 0.5) < 0.03
    assert abs(balanced["value"] - 0.5) < 0.03
    assert auc["ci95"][0] < 0.5 < auc["ci95"][1]
    assert auc["n"] == NUMBER * IMAGES  # each member under both models


@pytest.mark.parametrize("shift", [-4, 4])
def test_unlearning_that_leaves_too_much_or_too_little_is_caught(shift, keep):
    measures, _ = u_lira(drawn(0) + shift, drawn(0), keep)
    assert list(measures) == [f"u_lira_{what}" for what in NAMES]
    assert measures["u_lira_auc"]["value"] > 0.98
    assert measures["u_lira_balanced_accuracy"]["value"] > 0.9


def test_a_mask_on_the_logit_is_caught(keep):
    masked = np.full((NUMBER, IMAGES), -1000.0)
    measures = u_lira(masked, drawn() - 5, keep).measures
    assert all(found["value"] == 1 for found in measures.values())


def test_retrained_models_against_retrained_models_give_one_half():
    for seed in range(3):
        measures = retrained_control(drawn(seed), seed=seed).measures
        assert abs(measures["u_lira_auc"]["value"] - 0.5) < 0.05
        assert abs(measures["u_lira_balanced_accuracy"]["value"] - 0.5) < 0.05


def test_the_control_tells_how_far_models_that_differ_as_a_whole_stray_by_chance():
    moods = 3 * np.random.default_rng(1).standard_normal((NUMBER, 1))
    alike, moody = (retrained_control(drawn() + shift).measures["u_lira_auc"] for shift in (0, moods))
    assert abs(moody["value"] - 0.5) < 0.15  # the mean of few halvings
    assert np.diff(moody["ci95"]) > 3 * np.diff(alike["ci95"])


# What cannot be attacked.


def test_shadow_models_that_no_attack_could_use_are_refused(keep):
    phi = drawn()
    cases = [
        (lambda: lira(phi[:3], keep[:3]), "too few"),
        (lambda: lira(phi, keep, variance="some"), "per-example"),
        (lambda: lira(phi[:, :0], keep[:, :0]), "no example"),
        (lambda: lira(phi, np.ones_like(keep)), "all shadow models"),
        (lambda: u_lira(phi, phi, np.zeros_like(keep)), "fewer than 2"),
        (lambda: retrained_control(phi[:6]), "at least 8"),
    ]
    for call, words in cases:
        with pytest.raises(InputError, match=words):
            call()


# Overfitted models.


class TinyNet(nn.Module):
    """Learns a few images by heart in a few steps."""

    @nn.compact
    def __call__(self, images, train: bool):
        x = nn.Conv(4, (3, 3), use_bias=False, name="conv")(images)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="bn")(x))
        x = nn.relu(nn.Dense(32, name="hidden")(x.reshape(len(x), -1)))
        return nn.Dense(3, name="head")(x)


@pytest.fixture(scope="module")
def overfitted(tmp_path_factory):
    """Eight models of three digits, a quarter of them under a wrong name, and eight without the 2."""
    digits, rng = load_dataset("digits").train, np.random.default_rng(0)
    chosen = np.concatenate([np.flatnonzero(digits.labels == c)[:40] for c in range(3)])
    labels = digits.labels[chosen]
    wrong = rng.random(len(labels)) < 0.25
    labels = np.where(wrong, (labels + 1) % 3, labels).astype(np.int32)
    pool, folder = Split(digits.images[chosen], labels), tmp_path_factory.mktemp("overfitted")
    config = default.get_config()
    config.training.epochs, config.training.batch_size, config.training.weight_decay = 40, 16, 0.0
    config.data.pad = 0
    keep = draw_keep(pool.labels, 8, config.seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sets, "build_model", lambda *_: TinyNet())
        for exclude in ((), (2,)):
            train_shadows(config, pool, 3, keep, folder, exclude=exclude, checkpoint_every=40)
        return find_shadows(config, pool, 3, folder, (2,))


def test_members_of_overfitted_models_are_reported(overfitted):
    every, _ = overfitted
    everything = np.arange(len(every.pool.labels))
    phi = statistics_of(every, everything)
    assert lira(phi, every.keep).measures["lira_auc"]["value"] > 0.6
    assert lira_offline(phi, every.keep).measures["lira_offline_auc"]["value"] > 0.6


def test_untouched_models_are_caught_and_retrained_ones_pass(overfitted):
    every, without = overfitted
    images = forgotten_images(every, (2,))
    original, retrained = statistics_of(every, images), statistics_of(without, images)
    caught = u_lira(original, retrained, every.keep[:, images]).measures["u_lira_auc"]
    passed = retrained_control(retrained).measures["u_lira_auc"]
    assert caught["value"] > 0.95
    assert passed["ci95"][0] < 0.5 < passed["ci95"][1]


def test_each_model_forgets_its_own_images_once(overfitted, monkeypatch):
    every, _ = overfitted
    method, images, seen, unlearn = (
        Finetune(epochs=1, batch_size=16),
        forgotten_images(every, (2,)),
        [],
        Finetune.unlearn,
    )

    def spied(*arguments, data, statistics, **given):
        seen.append((data.retain(), statistics))
        return unlearn(*arguments, data=data, statistics=statistics, **given)

    monkeypatch.setattr(Finetune, "unlearn", spied)
    done = []
    phi = unlearn_shadows(every, ShadowRequest(method, (2,)), on_shadow=done.append)
    assert phi.shape == (8, len(images))
    assert done == list(range(1, 9))
    assert (phi != statistics_of(every, images)).any(1).all()
    for (taken, statistics), row in zip(seen, every.keep, strict=True):
        assert set(taken) == set(np.flatnonzero(row & (every.pool.labels != 2)))
        assert next(iter(statistics.layers.values())).count.sum() == row.sum()

    # What was kept of an interrupted run is not done again.
    folder = next((every.folder / "unlearned").glob("finetune-*"))
    (folder / "5.json").unlink()
    seen.clear()
    np.testing.assert_array_equal(unlearn_shadows(every, ShadowRequest(method, (2,))), phi)
    assert len(seen) == 1


def test_two_audits_of_the_same_shadow_models_do_not_disturb_each_other(overfitted, monkeypatch):
    every, _ = overfitted
    request, folder = ShadowRequest(Osp(), (2,)), statistics_folder(every)
    shutil.rmtree(folder, ignore_errors=True)
    alone = unlearn_shadows(every, request)
    kept, take = shutil.copytree(folder, every.folder / "kept"), shadow_statistics.statistics_over

    def taken_by_both(*arguments, **given):
        number = len(list(folder.glob("[0-9]")))
        shutil.copytree(kept / str(number), folder / str(number))
        return take(*arguments, **given)

    shutil.rmtree(folder)
    shutil.rmtree(every.folder / "unlearned")
    monkeypatch.setattr(shadow_statistics, "statistics_over", taken_by_both)
    np.testing.assert_array_equal(unlearn_shadows(every, request), alone)
    assert sorted(path.name for path in folder.iterdir()) == list("01234567")


def test_statistics_of_other_settings_are_not_taken(overfitted):
    every, _ = overfitted
    config = ConfigDict(every.config.to_dict())
    config.statistics.features += 1
    other = every._replace(config=config)
    assert statistics_folder(other) != statistics_folder(every)
    request = ShadowRequest(LogitMask(), (2,))
    before = len(list((every.folder / "unlearned").glob("logit-mask-*")))
    for one in (every, other, other):
        unlearn_shadows(one, request)
    assert len(list((every.folder / "unlearned").glob("logit-mask-*"))) == max(before, 1) + 1


def test_a_masked_class_is_caught_by_u_lira_though_it_hides_membership(overfitted):
    every, without = overfitted
    images = forgotten_images(every, (2,))
    keep = every.keep[:, images]
    masked = unlearn_shadows(every, ShadowRequest(LogitMask(), (2,)))
    assert (masked == -1000).all()
    assert lira(masked, keep).measures["lira_auc"]["value"] == 0.5
    assert u_lira(masked, statistics_of(without, images), keep).measures["u_lira_auc"]["value"] == 1
