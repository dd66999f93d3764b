"""Damaged or unusable TFDS folders are refused with one line that names them."""

import errno
import functools
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from PIL import Image
from tensorflow_datasets.core.data_sources.base import BaseDataSource
from tensorflow_datasets.proto import tf_example_pb2

from osp_jax.data import download, memory
from osp_jax.data import prepare as preparing
from osp_jax.data.class_names import check_class_names
from osp_jax.data.sources import load_dataset
from osp_jax.runtime.errors import InputError
from tests.data import small_archives


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A TFDS folder with a CIFAR-10 of 20 and 4 images, for copies."""
    folder = tmp_path_factory.mktemp("tfds")
    preparing.prepare("cifar10", folder, small_archives.cifar10(folder)[0], accept_unknown_archive=True)
    return folder


@pytest.fixture
def folder(prepared, tmp_path, monkeypatch) -> Path:
    """`cifar10/3.0.2` in a data folder of its own; nothing here may ask the network."""
    monkeypatch.setattr(download.urllib.request, "urlopen", lambda *_, **__: pytest.fail("asked the network"))
    shutil.copytree(prepared / "cifar10", tmp_path / "data" / "cifar10")
    return tmp_path / "data" / "cifar10" / "3.0.2"


def load(folder: Path, **given):
    return load_dataset("cifar10", str(folder.parents[1]), **given)


def refused(folder: Path, **given) -> str:
    with pytest.raises(InputError) as caught:
        load(folder, **given)
    message = str(caught.value)
    assert message.isprintable()
    assert str(folder) in message
    return message


def changed(path: Path, *keys, value) -> None:
    """Sets a field of a JSON file; `...` removes it."""
    content = json.loads(path.read_text())
    place = functools.reduce(lambda inner, key: inner[key], keys[:-1], content)
    if value is ...:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    path.write_text(json.dumps(content))


def shard(folder: Path, split: str = "train") -> Path:
    return folder / f"cifar10-{split}.array_record-00000-of-00001"


def rewrite(path: Path, change) -> None:
    """Writes a file of records anew; `change(number, features)` alters a record in place."""
    reader = ArrayRecordReader(str(path))
    records = [reader.read([number])[0] for number in range(reader.num_records())]
    reader.close()
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for number, record in enumerate(records):
        example = tf_example_pb2.Example.FromString(record)
        change(number, example.features.feature)
        writer.write(example.SerializeToString())
    writer.close()


def set_label(label: int, numbers):
    def change(number, features):
        if number in numbers:
            features["label"].int64_list.value[:] = [label]

    return change


def set_image(content: bytes, numbers=(3,)):
    def change(number, features):
        if number in numbers:
            features["image"].bytes_list.value[:] = [content]

    return change


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_copy_reads_as_it_is(folder):
    dataset = load(folder)
    assert (len(dataset.train.labels), len(dataset.test.labels)) == (20, 4)
    np.testing.assert_array_equal(load(folder, image_size=32, stream=True).train.images[:], dataset.train.images)


# Descriptions.


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json", "label.labels.txt"])
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"3", b'"x"', b"\xff\xfe{}", b"{}" * 2, b"[" * 100_000, b'{"a":' * 100_000, b"\0" * 99],
    ids=["empty", "open", "list", "null", "number", "text", "no UTF-8", "twice", "deep", "deep too", "zeros"],
)
def test_a_description_that_is_no_json_object_is_refused(file, content, folder):
    (folder / file).write_bytes(content)
    assert file in refused(folder)


INFO = [
    (("name",), "mnist"),
    (("name",), ...),
    (("name",), 3),
    (("version",), "3.0.1"),
    (("version",), ...),
    (("version",), "../../x"),
    (("version",), [3, 0, 2]),
    (("fileFormat",), "tfrecord"),
    (("fileFormat",), "\x1b[2J"),
    (("fileFormat",), {}),
    (("splits",), ...),
    (("splits",), []),
    (("splits",), {}),
    (("splits",), [3]),
    (("splits",), "train"),
    (("splits", 0), {}),
    (("splits", 1, "name"), "train"),
    (("splits", 0, "name"), "other"),
    (("splits", 0, "shardLengths"), ...),
    (("splits", 0, "shardLengths"), []),
    (("splits", 0, "shardLengths"), "20"),
    (("splits", 0, "shardLengths"), ["0"]),
    (("splits", 0, "shardLengths"), ["-20"]),
    (("splits", 0, "shardLengths"), ["19"]),
    (("splits", 0, "shardLengths"), ["21"]),
    (("splits", 0, "shardLengths"), ["20", "20"]),
    (("splits", 0, "shardLengths"), [20.5]),
    (("splits", 0, "shardLengths"), [None]),
    (("splits", 0, "shardLengths"), [True]),
    (("splits", 0, "shardLengths"), ["1000000000000"]),
    (("splits", 0, "shardLengths"), [10**30]),
    (("splits", 0, "shardLengths"), ["20x"]),
    (("splits", 0, "filepathTemplate"), "../../{SPLIT}"),
    (("splits", 0, "filepathTemplate"), "{NOTHING}"),
    (("splits", 0, "filepathTemplate"), 7),
    (("splits", 0, "numBytes"), "many"),
    (("moduleName",), 3),
    (("nothing known",), 3),
]
FEATURES = [
    (("featuresDict",), ...),
    (("featuresDict",), []),
    (("featuresDict", "features"), "x"),
    (("featuresDict", "features", "id"), {"pythonClassName": "os.system"}),
    (("pythonClassName",), "antigravity.fly"),
    (("pythonClassName",), "tensorflow_datasets.core.features.text_feature.Nothing"),
    (("featuresDict", "features", "label", "classLabel"), []),
    (("featuresDict", "features", "label", "classLabel", "numClasses"), ...),
    (("featuresDict", "features", "label", "classLabel", "numClasses"), "9"),
    (("featuresDict", "features", "label", "classLabel", "numClasses"), "-1"),
    (("featuresDict", "features", "label", "classLabel", "numClasses"), "9999999999"),
    (("featuresDict", "features", "image", "image", "shape"), 3),
    (("featuresDict", "features", "image", "image", "shape", "dimensions"), ["32"]),
    (("featuresDict", "features", "image", "image", "shape", "dimensions"), ["0", "32", "3"]),
    (("featuresDict", "features", "image", "image", "shape", "dimensions"), ["x", "32", "3"]),
    (("featuresDict", "features", "image", "image", "shape", "dimensions"), ["100000", "100000", "3"]),
    (("featuresDict", "features", "image", "image", "shape", "dimensions"), ["16", "16", "3"]),
]


@pytest.mark.parametrize(
    ("file", "keys", "value"),
    [*(("dataset_info.json", *case) for case in INFO), *(("features.json", *case) for case in FEATURES)],
    ids=lambda value: None if value is ... or not isinstance(value, str) else ascii(value)[1:20],
)
def test_a_field_that_is_missing_or_wrong_is_refused(file, keys, value, folder):
    changed(folder / file, *keys, value=value)
    refused(folder)


def test_a_set_without_images_or_of_other_images_is_refused(folder):
    path, features = folder / "features.json", ("featuresDict", "features")
    whole = path.read_text()
    for keys, value, message in (
        ((*features, "image"), ..., "has no 'image'"),
        ((*features, "label"), ..., "has no 'label'"),
        ((*features, "label"), {"tensor": {}}, "has no 'label'"),
        ((*features, "image", "image", "dtype"), "float32", "images of float32"),
        ((*features, "image", "image", "shape", "dimensions"), ["32", "32", "4"], "images of 4 channels"),
    ):
        path.write_text(whole)
        changed(path, *keys, value=value)
        with pytest.raises(InputError, match=message):
            load(folder)


def test_a_pipe_or_a_folder_in_the_place_of_a_file_is_not_waited_for(folder):
    for file in ("dataset_info.json", "features.json", shard(folder).name):
        (folder / file).rename(folder / "aside")
        os.mkfifo(folder / file)
        refused(folder)
        (folder / file).unlink()
        (folder / file).mkdir()
        refused(folder)
        (folder / file).rmdir()
        (folder / "aside").rename(folder / file)


def test_a_folder_of_another_version_is_named_without_asking_the_network(folder):
    folder.rename(folder.parent / "3.0.1")
    with pytest.raises(InputError, match=r"holds version 3\.0\.1, but 3\.0\.2 is needed"):
        load(folder)


# Class names and labels.


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("a b", "holds 2 class names, but features.json says 10"),
        ("a b c d e f g h i a", "classes 0 and 9 have the same name, 'a'"),
        ("a b c d e f g h i \x1b[31mred", "class 9 holds characters that cannot be printed: '\\x1b[31mred'"),
        ("a b c d e f g h i \u202ej", "cannot be printed"),
        ("a b c d e f g h i " + "j" * 201, "has 201 characters"),
    ],
    ids=["two of ten", "twice", "control", "right to left", "too long"],
)
def test_class_names_are_checked(names, message, folder):
    (folder / "label.labels.txt").write_text("\n".join(names.split(" ")) + "\n", encoding="utf-8")
    assert message in refused(folder)


def test_an_empty_class_name_is_refused():
    with pytest.raises(ValueError, match="class 1 has 0 characters"):
        check_class_names(["a", ""])


@pytest.mark.parametrize("stream", [False, True], ids=["in memory", "streamed"])
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("label", [10, -2, 2**40])
def test_a_label_without_a_class_is_named(label, split, stream, folder):
    rewrite(shard(folder, split), set_label(label, (1, 2)))
    message = refused(folder, image_size=16, stream=stream)
    assert f"{split} has the label {label} at image 1 (2 such images), but there are 10 class names" in message


def test_fewer_names_than_labels_are_refused_rather_than_trained_on(folder):
    (folder / "label.labels.txt").write_text("cat\ndog\n")
    changed(folder / "features.json", "featuresDict", "features", "label", "classLabel", "numClasses", value="2")
    assert "there are 2 class names, for labels 0 to 1" in refused(folder)


def test_one_class_is_nothing_to_learn(folder):
    rewrite(shard(folder), set_label(3, range(20)))
    assert "all training images are of one class, cat" in refused(folder)
    (folder / "label.labels.txt").write_text("cat\n")
    changed(folder / "features.json", "featuresDict", "features", "label", "classLabel", "numClasses", value="1")
    assert "has 1 classes" in refused(folder)


# Records and images.


@pytest.mark.parametrize("stream", [False, True], ids=["in memory", "streamed"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot identify image file"),
        (b"no image", "cannot identify image file"),
        (png(np.zeros((32, 32, 3), np.uint8))[:60], "image 3: "),
        (png(np.zeros((32, 32), np.uint16)), "not of 8 bits"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot identify image file"),
    ],
    ids=["empty", "text", "cut off", "16 bits", "a program"],
)
def test_an_image_that_cannot_be_decoded_is_named(content, reason, stream, folder):
    rewrite(shard(folder), set_image(content))
    with pytest.raises(InputError, match=r"3\.0\.2 is damaged \(image 3: ") as caught:
        np.asarray(load(folder, image_size=32, stream=stream).train.images)
    assert reason in str(caught.value)


def test_images_of_another_shape_than_the_description_are_named(folder):
    rewrite(shard(folder), set_image(png(np.zeros((16, 32, 3), np.uint8))))
    assert "train images differ in shape (32x32, and 16x32 at image 3)" in refused(folder)
    assert load(folder, image_size=32).image_shape == (32, 32, 3)


def test_a_record_that_is_no_example_is_named(folder):
    writer = ArrayRecordWriter(str(shard(folder)), "group_size:1")
    for _ in range(20):
        writer.write(b"\xff" * 50)
    writer.close()
    assert "record" in refused(folder)


def test_a_record_without_a_label_is_named(folder):
    rewrite(shard(folder), lambda number, features: number == 5 and features.pop("label"))
    assert "record 5" in refused(folder)


@pytest.mark.parametrize("seed", range(12))
def test_flipped_and_missing_bytes_of_records_are_refused(seed, folder):
    path, rng = shard(folder, "test"), np.random.default_rng(seed)
    data = np.frombuffer(path.read_bytes(), np.uint8).copy()
    used = np.flatnonzero(data)  # the rest pads the file to whole blocks
    data[rng.choice(used)] ^= 1 << rng.integers(8)
    path.write_bytes(data[: used[-1] if seed % 4 == 0 else None].tobytes())
    wanted = shard(folder, "test")
    assert wanted == path
    try:
        found = load(folder)
    except InputError as error:
        assert str(folder) in str(error)  # noqa: PT017
        return
    # What no checksum covers is not read: the images are those that were written.
    _, labels, images = small_archives.cifar10(folder.parent)
    order = np.lexsort(images[20:].reshape(4, -1).T)
    mine = np.lexsort(found.test.images.reshape(4, -1).T)
    np.testing.assert_array_equal(found.test.images[mine], images[20:][order])
    np.testing.assert_array_equal(found.test.labels[mine], labels[20:, 0][order])


# What does not fit into memory, and what is no folder.


def test_images_larger_than_memory_are_refused_before_they_are_read(folder, monkeypatch):
    assert "20 images of" in refused(folder, image_size=10**6)
    assert "GB are available" in refused(folder, image_size=10**6, stream=True)
    with pytest.raises(InputError, match=r"1797 images of digits at 1000000x1000000 pixels take 1,797,000\.0 GB"):
        load_dataset("digits", image_size=10**6)
    monkeypatch.setattr(memory, "available_memory", lambda: 20 * 32 * 32 * 3 - 1)
    assert "lower data.image_size or use data.stream" in refused(folder)


@pytest.mark.parametrize(
    "name",
    ["", " ", "a" * 201, "../cifar10", "/etc/passwd", "cifar10/", "a\0b", "\udcff", "\x1b[2J", "cifar10/../x", 3, None],
    ids=str,
)
def test_a_name_that_can_be_none_is_refused(name, folder):
    with pytest.raises(InputError, match=r"data set|data\.name") as caught:
        load_dataset(name, str(folder.parents[1]))
    assert str(caught.value).isprintable()


def test_a_data_folder_that_is_none_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(download.urllib.request, "urlopen", lambda *_, **__: pytest.fail("asked the network"))
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    for name, message in (
        (tmp_path / "file", "which is a file; give a folder"),
        (tmp_path / "file" / "in_it", "a part of it is a file"),
        (tmp_path / "circle", "lead in a circle"),
        (tmp_path / "circle" / "in_it", "lead in a circle"),
        (tmp_path / "broken", "a link to nothing"),
        (tmp_path / ("x" * 300), "too long for the file system"),
        ("~nobody_of_this_name", "home folder is not known"),
        ("a\0b", "without control characters"),
        (" ", "is empty"),
    ):
        with pytest.raises(InputError, match=message):
            load_dataset("cifar10", str(name))


def test_a_forbidden_data_folder_and_a_missing_home_are_one_line(tmp_path, monkeypatch):
    def forbidden(path):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", forbidden)
        with pytest.raises(InputError, match=r"cannot be read \(Permission denied\)"):
            load_dataset("cifar10", str(tmp_path))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setattr(Path, "expanduser", lambda self: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(InputError, match="home folder is not known"):
        load_dataset("cifar10")


def test_what_may_not_be_read_is_not_called_damaged(folder, monkeypatch):
    for file in ("dataset_info.json", "features.json", shard(folder).name):
        with monkeypatch.context() as patched:
            patched.setattr(os, "access", lambda path, mode, file=file: Path(path).name != file)
            message = refused(folder)
            assert f"{file} cannot be read (permission denied)" in message
            assert "delete" not in message


def test_too_many_open_files_are_not_called_damage(folder, monkeypatch):
    dataset = load(folder, image_size=32, stream=True)
    too_many = RuntimeError(f"Cannot open x: {os.strerror(errno.EMFILE)}; at byte 0")
    monkeypatch.setattr(BaseDataSource, "__getitem__", lambda *_: (_ for _ in ()).throw(too_many))
    with pytest.raises(OSError, match="Too many open files") as caught:
        dataset.train.images[0]
    assert caught.value.errno == errno.EMFILE


def test_a_data_folder_that_cannot_be_made_is_one_line():
    with pytest.raises(InputError, match=r"/proc/nothing/downloads cannot be made"):
        load_dataset("cifar10", "/proc/nothing")
