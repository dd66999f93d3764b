"""Weight files: round trips, changes of single entries, and one line for damage."""

import io
import json
import logging
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import msgpack
import numpy as np
import orbax.checkpoint as orbax
import pytest
import safetensors.numpy
from flax import serialization
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from osp_jax.interop.weight_files import FORMATS, others, read_weights, rewrite, write_weights
from osp_jax.runtime.errors import InputError

FILES = ("safetensors", "msgpack", "npz")
DTYPES = ("float32", "float16", "float64", "bfloat16", "float8_e4m3fn", "int64", "uint8", "bool")
VARIABLES = {
    "params/Dense_0/kernel": np.arange(12, dtype=np.float32).reshape(3, 4),
    "params/Dense_0/bias": np.arange(4, dtype=np.float16),
    "params/scale": np.array(2.5, dtype=np.float32),
    "batch_stats/BatchNorm_0/mean": np.arange(4, dtype=ml_dtypes.bfloat16),
}


def make(tmp_path: Path, kind: str, arrays: dict[str, np.ndarray] | None = None) -> Path:
    """A small file as its users write it."""
    path = tmp_path / f"in.{kind}"
    write_weights(path, kind, VARIABLES if arrays is None else arrays)
    return path


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def refusal(path: Path, read: Callable[[Path], Any] = read_weights) -> str:
    with pytest.raises(InputError) as refused:
        read(path)
    assert str(path.name) in str(refused.value)
    assert "\n" not in str(refused.value)
    return str(refused.value)


names = st.text("abc_0.", min_size=1, max_size=4)
keys = st.lists(st.lists(names, min_size=1, max_size=3).map("/".join), min_size=1, max_size=5, unique=True)


@st.composite
def trees(draw: st.DrawFn) -> dict[str, np.ndarray]:
    chosen = draw(keys)
    chosen = [key for key in chosen if not any(other.startswith(f"{key}/") for other in chosen)]
    arrays = {}
    for key in chosen:
        shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=3))
        dtype = np.dtype(draw(st.sampled_from(DTYPES)))
        count = int(np.prod(shape)) * dtype.itemsize
        bits = draw(st.binary(min_size=count, max_size=count))
        arrays[key] = np.frombuffer(bits, np.uint8).copy()
        arrays[key] = (arrays[key] % 2 if dtype.kind == "b" else arrays[key]).view(dtype).reshape(shape)
    return arrays


@pytest.mark.parametrize("kind", ["safetensors", "msgpack"])
@settings(max_examples=30, deadline=None)
@given(arrays=trees())
def test_arrays_are_read_as_they_were_written(tmp_path_factory, kind, arrays):
    path = make(tmp_path_factory.mktemp("tree"), kind, arrays)

    read = read_weights(path)

    assert read.format == kind
    assert read.arrays.keys() == arrays.keys()
    assert all(same(read.arrays[key], array) for key, array in arrays.items())


@settings(max_examples=30, deadline=None)
@given(arrays=trees())
def test_npz_keeps_what_numpy_can_and_widens_the_rest(tmp_path_factory, arrays):
    read = read_weights(make(tmp_path_factory.mktemp("tree"), "npz", arrays)).arrays

    for key, array in arrays.items():
        plain = array.dtype.isbuiltin == 1
        np.testing.assert_array_equal(read[key], array if plain else array.astype(np.float32))


@pytest.mark.parametrize("kind", [*FILES, "orbax"])
def test_without_changes_a_file_is_written_byte_by_byte(tmp_path, kind):
    path, out = make(tmp_path, kind), tmp_path / "out"

    rewrite(path, out, {})

    before, after = ([path], [out]) if path.is_file() else (sorted(path.rglob("*")), sorted(out.rglob("*")))
    assert [file.relative_to(path) for file in before] == [file.relative_to(out) for file in after]
    assert [file.read_bytes() for file in before if file.is_file()] == [f.read_bytes() for f in after if f.is_file()]


@pytest.mark.parametrize("kind", [*FILES, "orbax"])
@pytest.mark.parametrize("key", list(VARIABLES))
def test_a_change_changes_its_entry_alone_and_keeps_its_dtype(tmp_path, kind, key):
    path, out = make(tmp_path, kind), tmp_path / "out"
    before = read_weights(path).arrays

    rewrite(path, out, {key: np.asarray(before[key], np.float64) + 1})

    after = read_weights(out)
    assert after.format == kind
    assert list(after.arrays) == list(before)
    for other, array in before.items():
        assert same(after.arrays[other], (array + 1).astype(array.dtype) if other == key else array)


def test_a_file_may_be_written_over_itself(tmp_path):
    path = make(tmp_path, "msgpack")

    rewrite(path, path, {"params/Dense_0/bias": np.ones(4)})

    assert read_weights(path).arrays["params/Dense_0/bias"].tolist() == [1, 1, 1, 1]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", [*FILES, "orbax"])
def test_a_change_that_does_not_fit_is_refused(tmp_path, kind):
    path, out = make(tmp_path, kind), tmp_path / "out"

    with pytest.raises(InputError, match="no_such_key"):
        rewrite(path, out, {"no_such_key": np.ones(4)})
    with pytest.raises(InputError, match=r"has shape \(4,\) .*, not \(5,\)"):
        rewrite(path, out, {"params/Dense_0/bias": np.ones(5)})
    assert not out.exists()


def test_safetensors_files_are_those_of_the_library(tmp_path):
    arrays = {key: array for key, array in VARIABLES.items() if array.dtype != ml_dtypes.bfloat16}
    ours, theirs, out = tmp_path / "ours", tmp_path / "theirs", tmp_path / "out"
    write_weights(ours, "safetensors", arrays, {"format": "pt"})
    safetensors.numpy.save_file(arrays, theirs, {"format": "pt", "note": "kept"})

    assert all(same(array, arrays[key]) for key, array in safetensors.numpy.load_file(ours).items())
    assert all(same(array, arrays[key]) for key, array in read_weights(theirs).arrays.items())
    rewrite(theirs, out, {"params/Dense_0/bias": np.ones(4)})
    with safetensors.safe_open(out, "np") as file:
        assert file.metadata() == {"format": "pt", "note": "kept"}


def test_a_safetensors_file_may_begin_like_a_compressed_one(tmp_path):
    path = tmp_path / "in"
    text = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(b"\x1f\x8b".ljust(8, b"\0") + text.ljust(0x8B1F) + b"\0\0\x80\x3f")

    assert read_weights(path).arrays["a"].tolist() == [1]


def test_msgpack_files_are_those_of_flax(tmp_path, monkeypatch):
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 16)
    path, out = tmp_path / "in", tmp_path / "out"
    state = {
        "params": {"layers": {"0": {"kernel": VARIABLES["params/Dense_0/kernel"]}, "1": {"bias": np.float32(3)}}},
        "step": 7,
        "rate": 0.1,
        "note": "kept",
        "number": 1 + 2j,
        "none": None,
    }
    path.write_bytes(serialization.msgpack_serialize(state))

    read = read_weights(path).arrays
    rewrite(path, out, {"params/layers/0/kernel": np.ones((3, 4)), "params/layers/1/bias": np.float32(4)})

    assert list(read) == ["params/layers/0/kernel", "params/layers/1/bias"]
    assert same(read["params/layers/0/kernel"], VARIABLES["params/Dense_0/kernel"])
    restored = serialization.msgpack_restore(out.read_bytes())
    assert restored["params"]["layers"]["0"]["kernel"].tolist() == np.ones((3, 4)).tolist()
    assert restored["params"]["layers"]["1"]["bias"] == 4
    assert {key: value for key, value in restored.items() if key != "params"} == {
        key: value for key, value in state.items() if key != "params"
    }


def test_npz_files_keep_order_compression_and_the_layout_of_arrays(tmp_path):
    path, out = tmp_path / "in", tmp_path / "out"
    fortran = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    with path.open("wb") as file:
        np.savez_compressed(file, z=fortran, a=np.arange(3), label=np.array(["text"]))

    rewrite(path, out, {"z": fortran + 1})

    with np.load(out) as read:
        assert list(read) == ["z", "a", "label"]
        assert read["z"].flags.f_contiguous
        np.testing.assert_array_equal(read["z"], fortran + 1)
    assert {entry.compress_type for entry in zipfile.ZipFile(out).infolist()} == {zipfile.ZIP_DEFLATED}
    assert list(read_weights(path).arrays) == ["z", "a"]


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    return {"params": {"layers": [{"w": np.ones((2, 3), np.float32)}, {"w": np.zeros(3, np.float16)}]}, "step": 4}


def save_v1(path: Path, state: Any) -> Path:
    orbax.v1.save(path, state, custom_metadata={"note": "kept"})
    return path / "state"


def save_pytree(path: Path, state: Any) -> Path:
    orbax.PyTreeCheckpointer().save(path, state)
    return path


def save_files(path: Path, state: Any) -> Path:
    orbax.PyTreeCheckpointer(use_ocdbt=False).save(path, state)
    return path


def save_steps(path: Path, state: Any) -> Path:
    with orbax.CheckpointManager(path) as manager:
        manager.save(3, args=orbax.args.StandardSave(state))
    return path / "3" / "default"


def save_items(path: Path, state: Any) -> Path:
    items = orbax.args.Composite(state=orbax.args.StandardSave(state), note=orbax.args.JsonSave({"note": "kept"}))
    with orbax.CheckpointManager(path, item_names=("state", "note")) as manager:
        manager.save(3, args=items)
    return path / "3" / "state"


@pytest.mark.parametrize("save", [save_v1, save_pytree, save_files, save_steps, save_items])
def test_orbax_folders_of_every_layout_are_read_and_written_again(tmp_path, save, state):
    path, out = tmp_path / "a b%20#c", tmp_path / "out"
    logging.disable(logging.WARNING)
    inner = save(path, state).relative_to(path)

    read = read_weights(path).arrays
    rewrite(path, out, {"params/layers/0/w": np.full((2, 3), 5)})

    logging.disable(logging.NOTSET)
    assert {key: array.dtype.name for key, array in read.items()} == {
        "params/layers/0/w": "float32",
        "params/layers/1/w": "float16",
    }
    restored = orbax.PyTreeCheckpointer().restore(out / inner)
    assert restored["params"]["layers"][0]["w"].tolist() == np.full((2, 3), 5).tolist()
    assert same(restored["params"]["layers"][1]["w"], state["params"]["layers"][1]["w"])
    assert restored["step"] == 4
    assert {
        str(file.relative_to(path)) for file in path.rglob("*") if "/d/" not in str(file) and "ocdbt" not in str(file)
    } == {str(file.relative_to(out)) for file in out.rglob("*") if "/d/" not in str(file) and "ocdbt" not in str(file)}


def test_an_orbax_folder_of_2023_is_read_and_written_again(tmp_path, state):
    """It has no `_METADATA`, and a tree file that holds small arrays itself."""
    path, out = tmp_path / "in", tmp_path / "out"
    save_files(path, state)
    for name in ("_METADATA", "_CHECKPOINT_METADATA"):
        (path / name).unlink()
    tree = {"params": {"layers": {"0": {"w": "PLACEHOLDER://params.layers.0.w"}}}, "scale": np.float32([2])}
    (path / "checkpoint").write_bytes(serialization.msgpack_serialize(tree))

    rewrite(path, out, {"scale": [3], "params/layers/0/w": np.full((2, 3), 5)})

    read = read_weights(out).arrays
    assert read["scale"].tolist() == [3]
    assert read["params/layers/0/w"].tolist() == np.full((2, 3), 5).tolist()
    assert same(read["params/layers/1/w"], state["params"]["layers"][1]["w"])


def test_a_rewritten_orbax_folder_does_not_hold_the_old_values(tmp_path):
    """OCDBT keeps versions: a value that is only replaced is still in the folder."""
    secret = np.frombuffer(np.random.default_rng(0).bytes(4096), np.int32)
    path, out = tmp_path / "in", tmp_path / "out"
    write_weights(path, "orbax", {"w": secret, "v": np.arange(1000.0)})

    def holds(folder: Path) -> bool:
        return any(secret.tobytes()[:256] in file.read_bytes() for file in folder.rglob("*") if file.is_file())

    assert holds(path)
    rewrite(path, out, {"w": np.zeros(1024)})
    assert not holds(out)


def test_a_folder_that_is_no_single_checkpoint_is_refused(tmp_path, state):
    steps, empty, folder = tmp_path / "steps", tmp_path / "empty", tmp_path / "folder"
    with orbax.CheckpointManager(steps) as manager:
        manager.save(9, args=orbax.args.StandardSave(state))
        manager.save(10, args=orbax.args.StandardSave(state))
    empty.mkdir()
    folder.mkdir()
    (folder / "model.safetensors").touch()

    assert f"2 checkpoints (9, 10); give one of them: {steps / '10'}" in refusal(steps)
    assert "without an Orbax checkpoint" in refusal(empty)
    assert f"give one file in it, such as {folder / 'model.safetensors'}" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [("data.pkl", "unpacked PyTorch"), (".metadata", "dcp_to_torch_save"), ("saved_model.pb", "TensorFlow model")],
)
def test_a_folder_of_another_kind_is_reported_by_what_it_is(tmp_path, name, message):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / name).touch()

    assert message in refusal(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\0" * 64, "is empty"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"\n<html><head>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 64, "HDF5"),
        (b"\x1f\x8b\x08" + b"\0" * 64, "gunzip"),
        (b"\x80\x04\x95\x0c\0\0\0\0\0\0\0", "is a pickle"),
        (b'{"weight_map": {"a": "model-00001-of-00002.safetensors"}}', "is text"),
        (b"\x93NUMPY" + b"\0" * 64, "is one array"),
        (b"\x93NUMPY" + b"\0" * 64 + b"\x93NUMPY", "arrays without names"),
    ],
)
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors", "weights.npz", "weights"])
def test_a_file_that_is_no_weights_is_reported_by_what_it_is(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)

    assert message in refusal(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.pt", "no whole PyTorch"),
        ("a.safetensors", "no whole safetensors"),
        ("a.npz", "no whole npz"),
        ("a", "known"),
    ],
)
def test_bytes_without_meaning_are_refused_by_the_name_of_the_file(tmp_path, name, message):
    path = tmp_path / name
    path.write_bytes(b"\xff" * 64)

    assert message in refusal(path)


def test_a_file_that_does_not_exist_is_refused(tmp_path):
    assert "does not exist" in refusal(tmp_path / "none.pt")


def test_what_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")

    assert "no regular file" in refusal(tmp_path / "pipe.pt")
    assert "does not exist" in refusal(make(tmp_path, "npz") / "in.npz")


def test_pytorch_files_without_pytorch_name_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "weights.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights/data.pkl", b"\x80\x02}q\x00.")

    assert 'pip install "osp_jax[torch]"' in refusal(path)
    with pytest.raises(InputError, match=r"osp_jax\[torch\]"):
        write_weights(tmp_path / "out.pt", "torch", VARIABLES)


def test_a_zip_archive_of_other_files_is_refused(tmp_path):
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.pth", b"weights")

    assert "zip archive of model.pth" in refusal(path)


def test_pickled_arrays_are_never_loaded(tmp_path):
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "was here",))

    path = tmp_path / "evil.npz"
    np.savez(path, a=np.ones(3), evil=np.array([Evil()], dtype=object))

    assert "'evil' is an array of objects" in refusal(path)
    assert not (tmp_path / "was here").exists()


def header(tensors: dict[str, Any], size: int) -> bytes:
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text + b"\0" * size


@pytest.mark.parametrize(
    "content",
    [
        (2**63).to_bytes(8, "little") + b'{"a"',
        (50).to_bytes(8, "little") + b"{}",
        header({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}}, 8),
        header({"a": {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}}, 0),
        header({"a": {"dtype": "F32", "shape": [1] * 65, "data_offsets": [0, 4]}}, 4),
        header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}, 16),
        header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, 4),
        header({"a": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}}, 8),
        header({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, 4),
        header({"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}, 1),
        header({"a": [1]}, 0),
        header({name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in "ab"}, 8),
        (16).to_bytes(8, "little") + b'{"a":{}, "a":{}}',
        (200_000).to_bytes(8, "little") + b'{"a":' + b"[" * 199_995,
    ],
)
def test_a_malicious_safetensors_header_is_refused(tmp_path, content):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)

    refusal(path)


@pytest.mark.parametrize(
    "value",
    [
        msgpack.ExtType(42, b"code"),
        msgpack.ExtType(1, b"no array"),
        msgpack.ExtType(1, msgpack.packb(((2,), "object", b"\0" * 16))),
        msgpack.ExtType(1, msgpack.packb(((2**40, 2**40), "float32", b""))),
        msgpack.ExtType(1, msgpack.packb(((0, 2**63), "float32", b""))),
        msgpack.ExtType(1, msgpack.packb(((3,), "float32", b"\0" * 8))),
        msgpack.ExtType(1, msgpack.packb(((-1,), "float32", b""))),
        {"__msgpack_chunked_array__": True, "shape": {"0": 9}, "chunks": {"0": msgpack.ExtType(1, b"")}},
        {"__msgpack_chunked_array__": True, "shape": None},
    ],
)
def test_a_malicious_msgpack_value_is_refused(tmp_path, value):
    path = tmp_path / "weights.msgpack"
    path.write_bytes(msgpack.packb({"params": {"w": value}}))

    refusal(path)


def test_tables_in_tables_without_end_are_refused(tmp_path):
    path = tmp_path / "weights.msgpack"
    path.write_bytes(b"\x81\xa1a" * 100_000 + b"\xc0")

    assert "nested too deep" in refusal(path)


@pytest.mark.parametrize("kind", FILES)
def test_every_part_of_a_file_is_refused(tmp_path, kind):
    path = make(tmp_path, kind, {"params/w": np.arange(3, dtype=np.float32), "params/b": np.ones(1)})
    content = path.read_bytes()

    for length in range(len(content)):
        path.write_bytes(content[:length])
        refusal(path)


@pytest.mark.parametrize("kind", FILES)
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_flipped_bits_end_in_arrays_or_one_line(tmp_path_factory, kind, data):
    path = make(tmp_path_factory.mktemp("flipped"), kind, {"a/w": np.arange(3, dtype=np.float32), "a/b": np.ones(1)})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)

    try:
        read = read_weights(path)
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017 (both ends are good)
    else:
        assert all(isinstance(array, np.ndarray) for array in read.arrays.values())


def test_every_damaged_file_of_an_orbax_folder_ends_in_arrays_or_one_line(tmp_path):
    path, broken = tmp_path / "in", tmp_path / "broken"
    write_weights(path, "orbax", {"w": np.arange(3.0), "v": np.ones(1)})
    refused = 0
    for file in sorted(file.relative_to(path) for file in path.rglob("*") if file.is_file()):
        for damage in (lambda content: b"", lambda content: content[:-5], lambda content: b"\x7f" + content[1:]):
            shutil.copytree(path, broken)
            (broken / file).write_bytes(damage((broken / file).read_bytes()))
            try:
                read_weights(broken)
            except InputError:
                refused += 1
            shutil.rmtree(broken)

    assert refused >= 6


def test_what_lies_beside_the_network_is_named(tmp_path):
    path = tmp_path / "in"
    adam = {"opt_state/0/mu/w": np.ones(3), "ema_params/w": np.ones(3)}
    write_weights(path, "msgpack", {"params/w": np.ones(3), "params/head/b": np.ones(3), **adam})

    assert others(path, ["params/w", "params/head/b"]) == ("opt_state", "ema_params")
    assert others(path, ["params/w", *adam]) == ("params/head",)


def test_formats_that_cannot_hold_the_arrays_say_so(tmp_path):
    with pytest.raises(InputError, match="another format"):
        write_weights(tmp_path / "a", "msgpack", {"a": np.ones(1), "a/b": np.ones(1)})
    with pytest.raises(InputError, match="complex128"):
        write_weights(tmp_path / "a", "safetensors", {"a": np.ones(1, complex)})
    with pytest.raises(InputError, match=", ".join(FORMATS)):
        write_weights(tmp_path / "a", "pickle", {"a": np.ones(1)})
    with pytest.raises(InputError, match="no entries"):
        write_weights(tmp_path / "a", "orbax", {"a": np.ones((0, 3))})
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_arrays_is_refused(tmp_path):
    path = tmp_path / "in.npz"
    np.savez(path, label=np.array(["text"]))

    assert "holds no arrays" in refusal(path)


def test_an_array_in_another_byte_order_is_read(tmp_path):
    path, out = tmp_path / "in.npz", tmp_path / "out.npz"
    np.savez(path, a=np.arange(3, dtype=">f4"))

    assert read_weights(path).arrays["a"].tolist() == [0, 1, 2]
    rewrite(path, out, {"a": np.array([3.0, 4, 5])})
    with np.load(out) as read:
        assert read["a"].dtype == ">f4"
        assert read["a"].tolist() == [3, 4, 5]


def test_arrays_of_another_size_than_they_say_are_refused(tmp_path):
    path, content = tmp_path / "in.npz", io.BytesIO()
    np.lib.format.write_array(content, np.arange(3.0))
    text = content.getvalue().replace(b"'shape': (3,)", b"'shape': (1,)")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", text)

    assert "more bytes than its shape" in refusal(path)
