"""A user's network and a weight file become a model; mismatches are named."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx, traverse_util

from osp_jax.interop.imported import build_network, framework_of, import_network, model_of
from osp_jax.interop.network_source import check_source, find_source, network_of
from osp_jax.interop.weight_files import WeightFile
from osp_jax.runtime.errors import InputError

GIVEN = {"mean": (0.5,), "std": (0.2,), "class_names": ("a", "b", "c")}
SHAPE = (8, 8, 1)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.BatchNorm(use_running_average=not train, name="bn")(nn.Conv(4, (3, 3), name="conv")(x))
        self.sow("intermediates", "features", x)
        return nn.Dense(3, name="head")(nn.relu(x).mean((1, 2)))


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.blocks = nnx.List([nnx.Conv(1, 4, (3, 3), rngs=rngs), nnx.BatchNorm(4, rngs=rngs)])
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(self.dropout(jax.nn.relu(x).mean((1, 2))))


def weights_of(tree, sep: str = "/", **changes) -> WeightFile:
    flat = traverse_util.flatten_dict(jax.device_get(tree), sep=sep)
    arrays = {key: np.asarray(value) for key, value in flat.items()} | changes
    return WeightFile("msgpack" if sep == "/" else "safetensors", {k: v for k, v in arrays.items() if v is not None})


@pytest.fixture(scope="module")
def variables():
    made = Net().init(jax.random.key(1), jnp.zeros((1, *SHAPE)), False)
    return {name: made[name] for name in ("params", "batch_stats")}


def assert_logits(model, wanted) -> None:
    images = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
    np.testing.assert_allclose(model.apply(model.variables, images), wanted(images), atol=1e-5)


@pytest.mark.parametrize("sep", ["/", "."])
def test_linen_weights_are_found_by_path(variables, sep):
    model, keys = import_network(Net(), weights_of(variables, sep), SHAPE, **GIVEN)
    assert_logits(model, lambda images: Net().apply(variables, images, False))
    assert keys["params/conv/kernel"] == sep.join(("params", "conv", "kernel"))


def test_weights_become_float32_whatever_they_are_stored_as(variables):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), variables)
    model = model_of(Net(), weights_of(half), SHAPE, **GIVEN)
    assert {leaf.dtype for leaf in jax.tree.leaves(model.variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("layout", ["collections", "whole", "values", "dotted"])
def test_nnx_weights_are_found_however_a_state_is_saved(layout):
    module = NnxNet(nnx.Rngs(3))
    model = import_network(module, _saved(module, layout), SHAPE, **GIVEN).model
    module.eval()
    assert_logits(model, module)


def _saved(module, layout: str) -> WeightFile:
    _, params, rest = nnx.split(module, nnx.Param, nnx.BatchStat, ...)[:3]
    parts = {"params": nnx.to_pure_dict(params), "batch_stats": nnx.to_pure_dict(rest)}
    flat = {name: traverse_util.flatten_dict(part) for name, part in parts.items()}
    joined = {(name, *path): leaf for name, part in flat.items() for path, leaf in part.items()}
    if layout != "collections":
        joined = {path[1:]: leaf for path, leaf in joined.items()}
    if layout == "values":
        joined = {(*path, "value"): leaf for path, leaf in joined.items()}
        joined["dropout", "rngs", "count", "value"] = np.uint32(1)
    sep = "." if layout == "dotted" else "/"
    return WeightFile("npz", {sep.join(map(str, path)): np.asarray(leaf) for path, leaf in joined.items()})


def test_a_function_gets_a_nested_dict(variables):
    def apply(variables, images):
        return Net().apply(variables, images, False)

    model, keys = import_network(apply, weights_of(variables, "."), SHAPE, **GIVEN)
    assert_logits(model, lambda images: Net().apply(variables, images, False))
    assert keys["batch_stats/bn/mean"] == "batch_stats.bn.mean"
    assert model.is_parameter("params/conv/kernel")
    assert not model.is_parameter("batch_stats/bn/mean")
    with pytest.raises(InputError, match=r"'a'.*'a/b' below it"):
        import_network(apply, WeightFile("npz", {"a": np.ones(1), "a.b": np.ones(1)}), SHAPE, **GIVEN)


def test_what_does_not_fit_is_named(variables):
    def refused(weights, *words, network=None, shape=SHAPE, **given):
        with pytest.raises(InputError) as error:
            import_network(network or Net(), weights, shape, where="w.msgpack", **(GIVEN | given))
        for word in words:
            assert word in str(error.value)

    refused(weights_of(variables, **{"params/conv/kernel": None}), "w.msgpack", "params/conv/kernel")
    refused(
        weights_of(variables, **{"params/conv/kernel": np.ones((3, 3, 1, 5))}), "params/conv/kernel", "(3, 3, 1, 5)"
    )
    refused(weights_of(variables, **{"params/more/kernel": np.ones(2)}), "params/more/kernel")
    refused(weights_of(variables), "(2, 3)", "(2, 2)", class_names=("a", "b"))
    refused(weights_of(variables), "8x8 pixels and 1 channels", network=Square())


class Square(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x.reshape(len(x), 16, 16))


def test_kinds_of_networks_are_distinguished():
    assert framework_of(Net()) == "linen"
    assert framework_of(NnxNet(nnx.Rngs(0))) == "nnx"
    assert framework_of(lambda variables, images: images) == "function"
    for wrong, word in ((Net, "the class Net"), (None, "None"), ({"params": 1}, "params")):
        with pytest.raises(InputError, match=word):
            framework_of(wrong)


# The function


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_function_is_found_by_file_and_by_module(folder):
    (folder / "brought_package").mkdir()
    (folder / "brought_package" / "__init__.py").touch()
    (folder / "brought_package" / "layers.py").write_text("WIDTH = 3\n")
    file = folder / "brought_package" / "nets.py"
    file.write_text("from .layers import WIDTH\n\ndef build():\n    return lambda variables, images: WIDTH\n")
    source = find_source("brought_package.nets:build")
    assert (source.function, source.file, source.name) == ("brought_package.nets:build", file, "build")
    assert network_of(source)(None, None) == 3
    (folder / "alone.py").write_text("class Nets:\n    @staticmethod\n    def build():\n        return len\n")
    assert build_network("alone.py:Nets.build") is len
    assert find_source("alone.py:Nets.build").function == "alone.py:Nets.build"


def test_files_of_one_name_in_two_folders_have_their_own_neighbours(folder):
    for number in (1, 2):
        place = folder / str(number)
        place.mkdir()
        (place / "net.py").write_text("from beside import NUMBER\n\ndef build():\n    return lambda v, x: NUMBER\n")
        (place / "beside.py").write_text(f"NUMBER = {number}\n")
    for number in (1, 2, 1):
        assert build_network(f"{folder}/{number}/net.py:build")(0, 0) == number


def test_a_file_is_executed_again_where_it_was_changed(folder):
    (folder / "net.py").write_text("def build():\n    return lambda v, x: 1\n")
    first = find_source("./net.py:build")
    assert network_of(first)(0, 0) == 1
    check_source(first, "import it again")
    (folder / "net.py").write_text("def build():\n    return lambda v, x: 22\n")
    with pytest.raises(InputError, match="was changed since the import; restore it, or import it again"):
        check_source(first, "import it again")
    assert network_of(find_source("net.py:build"))(0, 0) == 22
    with pytest.raises(InputError, match="does not exist any more"):
        check_source(dataclasses.replace(first, file=folder / "gone.py"), "import it again")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def other():\n    pass\n", ["has no function build", "it has other", "MODULE:FUNCTION"]),
        ("build = 3\n", ["is 3, not a function"]),
        ("def build(width, depth=2):\n    pass\n", ["needs arguments (width)", "def network()"]),
        ("def build():\n    x = 1\n    return x.missing\n", ["net.py, line 3", "AttributeError"]),
        ("def build(:\n", ["net.py, line 1", "SyntaxError"]),
        ("import no_such_library\n", ["net.py, line 1", "no_such_library", "install no_such_library"]),
        ("def build():\n    raise SystemExit(3)\n", ["net.py, line 2", "SystemExit: 3"]),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(folder, text, words):
    (folder / "net.py").write_text(text)
    with pytest.raises(InputError) as error:
        build_network("net.py:build")
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("reference", "word"),
    [
        ("build", "MODULE:FUNCTION"),
        (":build", "MODULE:FUNCTION"),
        ("net.py:", "MODULE:FUNCTION"),
        ("net.py:a b", "no name of a function"),
        ("none.py:build", "does not exist"),
        ("no_such_package.nets:build", "no module no_such_package.nets"),
        ("math:sqrt", "no Python file"),
    ],
)
def test_what_names_no_function_is_refused(folder, reference, word):
    with pytest.raises(InputError, match=word):
        build_network(reference)
