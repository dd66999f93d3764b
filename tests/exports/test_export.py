"""A model as a file: StableHLO programs and weights, read back by their usual readers."""

from pathlib import Path

import flax.serialization
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy

import osp_jax
from osp_jax.exports import export as exports
from osp_jax.exports import stablehlo
from osp_jax.interop.weight_files import read_weights
from osp_jax.networks import create_model, init_variables
from osp_jax.trees import leaves_by_path
from tests import zoo

NAMES = ("ant", "bee", "cat", "dog", "eel")
GIVEN = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.2), "class_names": NAMES}


def of_zoo(name: str, **given: object) -> osp_jax.Model:
    apply, variables = zoo.ZOO[name]()
    return osp_jax.from_function(apply, variables, **GIVEN, **given)


def noise(shape: tuple[int, ...], count: int = 5) -> np.ndarray:
    return np.random.default_rng(7).normal(size=(count, *shape)).astype(np.float32)


def changed(model: osp_jax.Model, path: str) -> osp_jax.Model:
    leaves, structure = jax.tree.flatten(model.variables)
    index = list(leaves_by_path(model.variables)).index(path)
    return model.replace(
        variables=jax.tree.unflatten(structure, [*leaves[:index], leaves[index] + 1, *leaves[index + 1 :]])
    )


def one_line(function, *words: str) -> None:
    with pytest.raises(osp_jax.InputError) as caught:
        function()
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3", "vit", "nnx_cnn", "equinox_cnn"])
def test_a_stablehlo_program_gives_the_logits_for_any_number_of_images(name, tmp_path):
    model, shape, out = of_zoo(name), zoo.image_shape(name), tmp_path / "net.stablehlo"
    done = osp_jax.export(model, out, image_shape=shape)
    assert (done.format, done.path) == ("stablehlo", out)
    assert done.difference <= 1e-4
    program = jax.export.deserialize(bytearray(out.read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    images = noise(shape)
    expected = np.asarray(model.apply(model.variables, images))
    np.testing.assert_allclose(program.call(images), expected, atol=1e-4 * np.abs(expected).max())


def test_a_network_trained_with_our_convolutions_for_cpus_is_exported_with_xla_s(tmp_path):
    module = create_model("resnet8", 5, (12, 12, 3), width=4, convolution="cpu")
    variables = init_variables(module, (12, 12, 3), jax.random.key(0))
    done = osp_jax.export(
        osp_jax.from_linen(module, variables, **GIVEN), tmp_path / "n.stablehlo", image_shape=(12, 12, 3)
    )
    program = jax.export.deserialize(bytearray(done.path.read_bytes()))
    assert program.platforms == stablehlo.PLATFORMS
    assert "while" not in program.mlir_module()


def test_a_bfloat16_network_is_exported_in_float32_and_says_so(tmp_path):
    module = create_model("resnet8", 5, (12, 12, 3), width=4, dtype="bfloat16")
    variables = init_variables(module, (12, 12, 3), jax.random.key(0))
    done = osp_jax.export(
        osp_jax.from_linen(module, variables, **GIVEN), tmp_path / "n.stablehlo", image_shape=(12, 12, 3)
    )
    assert "computed in float32" in str(done)
    program = jax.export.deserialize(bytearray(done.path.read_bytes()))
    assert program.out_avals[0].dtype == jnp.float32
    assert "bf16" not in program.mlir_module()


def test_a_logit_out_of_reach_does_not_hide_what_differs(tmp_path, monkeypatch):
    def apply(variables, images):
        return images.mean((1, 2)) @ variables["kernel"] + variables["bias"]

    variables = {"kernel": jnp.ones((3, 5)), "bias": jnp.zeros(5).at[2].set(-1e9)}
    model = osp_jax.from_function(apply, variables, **GIVEN, forgotten=(2,))
    assert osp_jax.export(model, tmp_path / "a.stablehlo", image_shape=(4, 4, 3)).difference <= 1e-4
    wrong = lambda content: lambda images: apply(variables, images) + 0.01  # noqa: E731
    monkeypatch.setattr(exports, "loaded", wrong)
    one_line(
        lambda: osp_jax.export(model, tmp_path / "b.stablehlo", image_shape=(4, 4, 3)), "differs", "nothing was written"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a.stablehlo"]


def test_a_network_that_counts_its_images_is_mapped_over_them(tmp_path):
    def apply(variables, images):
        return jnp.stack([images[i].mean() * variables for i in range(len(images))])

    model = osp_jax.from_function(apply, jnp.arange(5.0), **GIVEN)
    osp_jax.export(model, tmp_path / "a.stablehlo", image_shape=(4, 4, 3))
    program = jax.export.deserialize(bytearray((tmp_path / "a.stablehlo").read_bytes()))
    images = noise((4, 4, 3))
    np.testing.assert_allclose(program.call(images), apply(model.variables, images), atol=1e-5)


def test_a_network_whose_logits_depend_on_the_other_images_is_refused(tmp_path):
    def apply(variables, images):
        return (images - images[: len(images)].mean(0)).sum((1, 2)) @ variables

    model = osp_jax.from_function(apply, jnp.ones((3, 5)), **GIVEN)
    one_line(lambda: osp_jax.export(model, tmp_path / "a.stablehlo", image_shape=(4, 4, 3)), "differs from the network")
    assert not list(tmp_path.iterdir())


def loaded(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file, read by its own library."""
    match path.suffix:
        case ".safetensors":
            return safetensors.numpy.load_file(path)
        case ".npz":
            with np.load(path, allow_pickle=False) as file:
                return dict(file)
        case ".msgpack":
            return leaves_by_path(flax.serialization.msgpack_restore(path.read_bytes()))
    return read_weights(path).arrays


@pytest.mark.parametrize("name", ["w.safetensors", "w.npz", "w.msgpack", "w"])
def test_weights_are_the_arrays_by_path(name, tmp_path):
    model = of_zoo("preact_resnet")
    done = osp_jax.export(model, tmp_path / name, format="" if "." in name else "orbax")
    found, expected = loaded(tmp_path / name), leaves_by_path(model.variables)
    assert done.entries == len(expected)
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_array_equal(found[path], leaf)


def test_safetensors_say_what_the_network_knows(tmp_path):
    osp_jax.export(of_zoo("plain_mlp", forgotten=(1,)), tmp_path / "w.safetensors")
    with safetensors.safe_open(tmp_path / "w.safetensors", "numpy") as file:
        metadata = file.metadata()
    assert metadata["forgotten"] == '["bee"]'
    assert metadata["class_names"] == '["ant", "bee", "cat", "dog", "eel"]'
    assert metadata["mean"] == "[0.4, 0.5, 0.6]"
    assert metadata["osp_jax"]


@pytest.mark.parametrize("suffix", ["safetensors", "npz", "msgpack"])
def test_like_writes_the_file_that_came_in_with_what_changed(suffix, tmp_path):
    model = of_zoo("preact_resnet")
    came, out = tmp_path / f"in.{suffix}", tmp_path / f"out.{suffix}"
    osp_jax.export(model, came)
    path = "params/Dense_0/bias"
    done = osp_jax.export(changed(model, path), out, like=came)
    assert done.changed == 1
    before, after = loaded(came), loaded(out)
    assert list(before) == list(after)
    assert [key for key in before if before[key].tobytes() != after[key].tobytes()] == [path]
    np.testing.assert_array_equal(after[path], before[path] + 1)


def test_half_precision_stays_bit_identical_where_nothing_changed(tmp_path):
    apply, variables = zoo.ZOO["plain_mlp"]()
    half = {path: np.asarray(leaf, np.float16) for path, leaf in leaves_by_path(variables).items()}
    np.savez(tmp_path / "in.npz", **{f"net/{path}": array for path, array in half.items()})
    structure = jax.tree.structure(variables)
    model = osp_jax.from_function(
        apply, jax.tree.unflatten(structure, [jnp.asarray(a, jnp.float32) for a in half.values()]), **GIVEN
    )
    assert osp_jax.export(model, tmp_path / "same.npz", like=tmp_path / "in.npz").changed == 0
    assert (tmp_path / "same.npz").read_bytes() == (tmp_path / "in.npz").read_bytes()
    first = next(iter(half))
    osp_jax.export(changed(model, first), tmp_path / "out.npz", like=tmp_path / "in.npz")
    after = loaded(tmp_path / "out.npz")[f"net/{first}"]
    assert after.dtype == np.float16
    np.testing.assert_allclose(after, half[first] + 1, rtol=1e-3)


def test_what_cannot_be_is_refused_in_one_line_and_nothing_is_written(tmp_path):
    model, out = of_zoo("plain_mlp"), tmp_path / "w.safetensors"
    osp_jax.export(model, out)
    content = out.read_bytes()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "letter.txt").write_text("dear")
    (tmp_path / "link.npz").symlink_to(out)

    def case(*words: str, **arguments: object) -> None:
        one_line(lambda: osp_jax.export(model, **{"out": tmp_path / "new.npz"} | arguments), *words)

    case("unknown format 'onx'", *exports.FORMATS, format="onx")
    case("names no format", "safetensors", out=tmp_path / "new")
    case("exists", "--overwrite", out=out)
    case("is a link", out=tmp_path / "link.npz", overwrite=True)
    case("is a file", format="orbax", out=out, overwrite=True)
    case("is a folder", format="npz", out=tmp_path / "folder", overwrite=True)
    case("holds letter.txt", format="orbax", out=tmp_path / "folder", overwrite=True)
    case("image_shape=(height, width, channels)", format="stablehlo")
    case("like is for weights", format="stablehlo", like=out, image_shape=(16, 16, 3))
    case("is the file that came in", out=out, like=out, overwrite=True)
    case("does not exist", like=tmp_path / "nothing.npz")
    other = of_zoo("tutorial_cnn")
    one_line(lambda: osp_jax.export(other, tmp_path / "new.npz", like=out), str(out), "no key of the network")
    assert out.read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link.npz", "w.safetensors"]


@pytest.mark.parametrize("name", ["w.npz", "w"])
def test_overwrite_replaces_the_file_and_leaves_nothing_beside_it(name, tmp_path):
    model, format = of_zoo("plain_mlp"), "" if "." in name else "orbax"
    osp_jax.export(model, tmp_path / name, format=format)
    path = next(iter(leaves_by_path(model.variables)))
    osp_jax.export(changed(model, path), tmp_path / name, format=format, overwrite=True)
    np.testing.assert_array_equal(loaded(tmp_path / name)[path], leaves_by_path(model.variables)[path] + 1)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_failure_while_writing_leaves_nothing(tmp_path, monkeypatch):
    def failing(*arguments: object) -> None:
        raise OSError(28, "No space left on device", "w.npz")

    monkeypatch.setattr("osp_jax.exports.weights.write_weights", failing)
    with pytest.raises(OSError, match="No space"):
        osp_jax.export(of_zoo("plain_mlp"), tmp_path / "w.npz")
    assert not list(tmp_path.iterdir())
