"""The keys of a weight file match those of the network, or the first difference is named with its remedy."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osp_jax.interop.weight_files import matched
from osp_jax.runtime.errors import InputError

TORCH = {
    "conv1.weight": (8, 3, 3, 3),
    "bn1.weight": (8,),
    "bn1.running_mean": (8,),
    "bn1.num_batches_tracked": (),
    "layer1.0.conv.weight": (8, 8, 3, 3),
    "fc.weight": (10, 8),
    "fc.bias": (10,),
}
FLAX = {
    "batch_stats/BatchNorm_0/mean": (8,),
    "params/BatchNorm_0/scale": (8,),
    "params/Conv_0/kernel": (3, 3, 3, 8),
    "params/Dense_0/kernel": (8, 10),
}


def renamed(keys: dict[str, tuple[int, ...]], rename: Callable[[str], str]) -> dict[str, tuple[int, ...]]:
    return {rename(key): shape for key, shape in keys.items()}


def without(keys: dict[str, tuple[int, ...]], *gone: str) -> dict[str, tuple[int, ...]]:
    return {key: shape for key, shape in keys.items() if key not in gone}


def refusal(keys: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]]) -> str:
    with pytest.raises(InputError) as refused:
        matched(keys, wanted, "net.pt")
    assert str(refused.value).startswith("net.pt ")
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("rename", "wanted"),
    [
        (lambda key: key, TORCH),
        (lambda key: f"module.{key}", TORCH),
        (lambda key: f"_orig_mod.module.{key}", TORCH),
        (lambda key: f"model.{key}", TORCH),
        (lambda key: f"my.own.name.{key}", TORCH),
        (lambda key: key if key.startswith("fc") else key.replace(".", ".module.", 1), TORCH),
        (lambda key: key.replace("layer1.0.", "layer1.0._orig_mod."), TORCH),
        (lambda key: key.removeprefix("model."), renamed(TORCH, lambda key: f"model.{key}")),
        (lambda key: key.replace("model.", "module."), renamed(TORCH, lambda key: f"model.{key}")),
        (lambda key: f"state/{key}", FLAX),
        (lambda key: key.replace("/", "."), FLAX),
        (lambda key: key.removeprefix("params/"), FLAX),
        (lambda key: key.partition("/")[2] + "/value", FLAX),
        (lambda key: key.partition("/")[2], FLAX),
    ],
)
def test_prefixes_and_wrappers_are_bridged(rename, wanted):
    keys = matched(renamed(wanted, rename), wanted, "net.pt")

    assert keys == {path: rename(path) for path in wanted}
    assert list(keys) == list(wanted)


@given(st.lists(st.sampled_from(["a", "b", "module", "0", "params"]), max_size=3))
def test_any_prefix_is_bridged(prefix):
    def rename(key: str) -> str:
        return ".".join([*prefix, key])

    assert matched(renamed(TORCH, rename), TORCH, "net.pt") == {path: rename(path) for path in TORCH}


def test_counters_need_not_be_there_on_either_side():
    fewer = without(TORCH, "bn1.num_batches_tracked")

    assert matched(fewer, TORCH, "net.pt") == {path: path for path in fewer}
    assert matched(TORCH, fewer, "net.pt") == {path: path for path in fewer}
    assert matched({**fewer, "conv1.total_ops": (1,)}, fewer, "net.pt") == {path: path for path in fewer}


@pytest.mark.parametrize(
    "beside",
    ["opt_state/0/mu/Conv_0/kernel", "step", "ema_params/Conv_0/kernel", "rng", "Dropout_0/rngs/key"],
)
def test_what_flax_users_keep_beside_the_variables_is_no_difference(beside):
    assert matched({**FLAX, beside: (3, 3, 3, 8)}, FLAX, "net.msgpack") == {path: path for path in FLAX}


def test_what_lies_outside_the_prefix_is_no_difference():
    keys = renamed(TORCH, lambda key: f"model.{key}") | {"criterion.weight": (10,)}

    assert matched(keys, TORCH, "net.pt")["fc.bias"] == "model.fc.bias"


def test_of_several_copies_the_one_of_the_usual_name_is_taken():
    ema = renamed(TORCH, lambda key: f"model_ema.module.{key}") | renamed(TORCH, lambda key: f"model.{key}")

    assert matched(ema, TORCH, "net.pt")["fc.bias"] == "model.fc.bias"


def test_several_copies_without_a_usual_name_are_refused():
    both = renamed(TORCH, lambda key: f"student.{key}") | renamed(TORCH, lambda key: f"teacher.{key}")

    assert "2 times, under 'student' and 'teacher'" in refusal(both, TORCH)
    assert "lacks 1 of the network's 7 keys, 'fc.bias' first" in refusal(
        without(both, "student.fc.bias", "teacher.fc.bias"), TORCH
    )


def test_of_layers_with_the_same_keys_the_one_of_the_same_shape_is_taken():
    keys = {"fc1.weight": (5, 8), "fc1.bias": (5,), "fc2.weight": (10, 5), "fc2.bias": (10,)}

    assert matched(keys, {"weight": (10, 5), "bias": (10,)}, "net.pt") == {"weight": "fc2.weight", "bias": "fc2.bias"}


def test_a_missing_key_is_named_with_the_nearest_one():
    keys = without(TORCH, "conv1.weight") | {"stem.weight": (8, 3, 3, 3)}

    message = refusal(keys, TORCH)

    assert "lacks 1 of the network's 7 keys, 'conv1.weight' first; the file has 'stem.weight'" in message


def test_missing_statistics_of_normalisations_are_named():
    message = refusal(without(FLAX, "batch_stats/BatchNorm_0/mean"), FLAX)

    assert "'batch_stats/BatchNorm_0/mean' first; save the statistics" in message


def test_pruned_weights_are_named():
    pruned = without(TORCH, "fc.weight") | {"fc.weight_orig": (10, 8), "fc.weight_mask": (10, 8)}

    assert "torch.nn.utils.prune.remove" in refusal(pruned, TORCH)


def test_keys_that_differ_in_the_separator_alone_are_different_keys():
    both = {"a.b": (3,), "a/b": (4,)}

    assert matched(both, both, "net.npz") == {"a.b": "a.b", "a/b": "a/b"}
    assert matched({"a": (3,)}, {"a": (3,)}, "net.npz") == {"a": "a"}
    assert "the network does not have" in refusal({"a": (3,)}, {})


def test_another_network_is_named():
    assert "no key of the network, as 'conv1.weight': it begins with 'a.b'" in refusal({"a.b": (3,)}, TORCH)
    assert "it is empty" in refusal({}, TORCH)


def test_one_part_of_several_is_named():
    with pytest.raises(InputError, match=r"one of several parts, and lacks 'fc\.bias'"):
        matched(without(TORCH, "fc.bias"), TORCH, "model-00001-of-00002.safetensors")


def test_keys_that_the_network_does_not_have_are_named():
    message = refusal({**TORCH, "layer2.weight": (8,), "layer2.bias": (8,)}, TORCH)

    assert "2 keys that the network does not have, 'layer2.weight' first" in message


@pytest.mark.parametrize(
    ("other", "remedy"),
    [
        ({"fc.weight": (100, 8), "fc.bias": (100,)}, "is the head of another size?"),
        ({"conv1.weight": (8, 1, 3, 3)}, "another number of channels?"),
        ({"fc.weight": (8, 10)}, "the other way round"),
        ({"conv1.weight": (16, 3, 5, 5)}, "the network of --network is another one"),
        ({"fc.weight": (100, 16), "fc.bias": (100,), "bn1.weight": (4,)}, "the network of --network is another one"),
    ],
)
def test_another_shape_is_named_with_what_it_most_often_means(other, remedy):
    first = next(key for key in TORCH if key in other)

    message = refusal({**TORCH, **other}, TORCH)

    assert f"of another shape, '{first}' first: {other[first]} in the file, {TORCH[first]} in the network" in message
    assert remedy in message


def test_embeddings_of_positions_tell_of_another_image_size():
    message = refusal({**TORCH, "pos_embed": (1, 65, 48)}, {**TORCH, "pos_embed": (1, 197, 48)})

    assert "images of another size?" in message
