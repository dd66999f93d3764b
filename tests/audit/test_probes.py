"""Probes detect information that features contain, and none that they lack."""

import numpy as np
import pytest

from osp_jax.audit.probes import probes
from osp_jax.audit.subject import Look


def looks(shift: float, n: int = 200) -> dict[str, Look]:
    """Features of three classes, the forgotten class 0 moved apart by `shift` in one direction of stage 'b' only."""
    rng = np.random.default_rng(0)

    def part(side: str) -> Look:
        labels = np.zeros(n, int) if side == "forget" else rng.integers(1, 3, n)
        a, b = rng.normal(size=(2, n, 5))
        b[:, 0] += shift * (labels == 0)
        b[:, 1] += 4.0 * (labels == 1)
        return Look(np.zeros((n, 3)), labels, {"a": a, "b": b})

    return {f"{split}_{side}": part(side) for split in ("train", "test") for side in ("forget", "retain")}


def test_a_class_that_lies_apart_is_found_where_it_does_and_only_there():
    found = probes(looks(shift=5.0), ["a", "b"])
    for probe in ("linear", "knn"):
        assert found[f"{probe}_b"]["ci95"][0] > 0.9
        assert found[f"{probe}_a"]["ci95"][0] < 0.53
    assert found["new_head_forget_accuracy"]["value"] > 0.9
    assert found["new_head_retain_accuracy"]["value"] > 0.9


def test_a_class_that_lies_among_the_others_is_not_found():
    found = probes(looks(shift=0.0), ["a"])
    assert found["linear_a"]["ci95"][0] < 0.53
    assert found["new_head_forget_accuracy"]["value"] < 0.6


def test_a_probe_is_not_scored_on_what_it_was_fitted_on():
    memory = looks(shift=0.0, n=30)
    wide = {part: Look(look.logits, look.labels, {"a": np.random.default_rng(len(part)).normal(size=(30, 500))})
            for part, look in memory.items()}  # fmt: skip
    assert probes(wide, ["a"])["linear_a"]["value"] == pytest.approx(0.5, abs=0.25)
