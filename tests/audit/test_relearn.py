"""The untouched model needs no step, the retrained one needs some; `never` has no value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from osp_jax.audit.measure import measure, never
from osp_jax.audit.relearn import Settings, anamnesis, frozen_norm_loss, relearning, steps_measure
from osp_jax.audit.subject import stages_of
from osp_jax.methods.parts.head import head_leaves
from osp_jax.training.descent import split_variables
from osp_jax.trees import edited, leaves_by_path

SETTINGS = Settings(counts=(1, 50), steps=60, draws=2, learning_rate=0.05)


@pytest.fixture(scope="module")
def found(controls):
    return {
        name: relearning(getattr(controls, name), controls.images, 1.0, SETTINGS) for name in ("original", "retrained")
    }


def test_what_was_never_forgotten_takes_no_step_and_what_was_never_known_takes_some(found):
    for name, steps in found["original"][0].items():
        if "fewest" not in name and "50_percent" in name:
            assert steps["value"] == 0, name
    retrained, _ = found["retrained"]
    assert retrained["all_layers_50_images_to_50_percent"]["value"] > 0
    assert retrained["all_layers_50_images_to_50_percent"]["n"] == SETTINGS.draws
    assert retrained["all_layers_fewest_images_to_50_percent"]["value"] in SETTINGS.counts


def test_a_curve_starts_before_the_first_step_and_ends_where_the_goal_is_reached(found):
    _, curves = found["retrained"]
    assert curves.keys() == {f"{layers}_{n}" for layers in Settings().layers for n in ("1_image", "50_images")}
    for curve in curves.values():
        assert (curve["steps"][0], curve["accuracy"][0]) == (0, 0.0)
        assert curve["steps"] == sorted(set(curve["steps"]))
        assert max(curve["accuracy"][:-1]) < 0.95
        assert curve["accuracy"][-1] >= 0.95 or curve["steps"][-1] == SETTINGS.steps


def test_a_class_whose_answer_is_out_of_reach_is_never_learned_again(controls):
    model, path = controls.original.model, "params/head/bias"
    bias = leaves_by_path(model.variables)[path].at[3].set(-1e9)
    masked = model.replace(variables=edited(model.variables, {path: bias}))
    subject = controls.original._replace(model=masked)
    measures, _ = relearning(subject, controls.images, 1.0, SETTINGS._replace(counts=(50,), layers=("head_only",)))
    assert measures["head_only_50_images_to_50_percent"]["never"] == SETTINGS.steps
    assert measures["head_only_fewest_images_to_50_percent"]["never"] == 50


def test_only_the_head_is_learned_where_it_is_to_be(controls):
    original, split = controls.original, controls.images.dataset.train
    batch, key = {"images": split.images[:8], "labels": split.labels[:8]}, jax.random.key(0)

    def gradients(leaves):
        arguments = batch, key, *original.preparation.moments()
        loss = frozen_norm_loss(original, leaves)
        return leaves_by_path(jax.grad(loss, has_aux=True)(*split_variables(original.model), *arguments)[0])

    head = head_leaves(stages_of(original.model, split.images.shape[1:]).head)
    some, every = gradients(head), gradients(None)
    assert head == ("params/head/kernel", "params/head/bias")
    assert {path for path, leaf in some.items() if np.any(leaf)} == set(head)
    assert {path.split("/")[1] for path, leaf in every.items() if np.any(leaf)} == set(
        original.model.variables["params"]
    )
    for path in head:
        np.testing.assert_allclose(some[path], every[path], rtol=1e-5, atol=1e-7)


def test_the_model_itself_is_left_as_it_was(controls):
    before = jax.tree.map(jnp.copy, controls.original.model.variables)
    relearning(controls.original, controls.images, 2.0, SETTINGS._replace(counts=(1,), layers=("all_layers",), steps=3))
    jax.tree.map(np.testing.assert_array_equal, controls.original.model.variables, before)


def test_steps_are_summed_up_over_draws():
    assert steps_measure([4, 6, 8], 100)["value"] == 6
    assert steps_measure([4, None, 8], 100)["value"] == 8  # the middle one of 4, 8 and never
    assert steps_measure([4, None, 8], 100)["ci95"] is None
    assert steps_measure([4, None], 100)["never"] == 100
    assert steps_measure([6], 100) == {"value": 6.0, "ci95": None, "n": 1, "leak": "low"}
    low, high = steps_measure([4, 6, 8], 100)["ci95"]
    assert (low, high) == pytest.approx((6 - 4.968, 6 + 4.968), abs=0.01)


def test_the_anamnesis_index_is_the_steps_over_those_of_the_retrained():
    name = "all_layers_5_images_to_95_percent"
    assert anamnesis({name: measure(5)}, {name: measure(20)})["anamnesis_5_images"]["value"] == 0.25
    assert anamnesis({name: measure(0)}, {name: measure(20)})["anamnesis_5_images"]["value"] == 0
    assert anamnesis({name: never(60)}, {name: measure(20)})["anamnesis_5_images"]["never"] == 60
    assert anamnesis({name: measure(5)}, {name: never(60)})["anamnesis_5_images"]["value"] is None
    assert anamnesis({name: measure(0)}, {name: measure(0)})["anamnesis_5_images"]["value"] == 1
