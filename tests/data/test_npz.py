"""A user's images in an npz file: the names of its arrays, and messages for unusable files."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from osp_jax.data import memory, npz
from osp_jax.data.sources import load_data
from osp_jax.data.stored import cut
from osp_jax.runtime.errors import InputError, one_line


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


TRAIN, TEST, VAL = noise(0, 9, 5, 6, 3), noise(1, 6, 5, 6, 3), noise(2, 3, 5, 6, 3)
LABELS = np.arange(9) % 3


def medmnist(**changed) -> dict[str, np.ndarray]:
    """The arrays of MedMNIST; those that are given as None are left out."""
    parts = (("train", TRAIN), ("val", VAL), ("test", TEST))
    whole = {f"{part}_images": images for part, images in parts}
    whole |= {f"{part}_labels": LABELS[: len(images), None].astype(np.uint8) for part, images in parts}
    return {name: array for name, array in (whole | changed).items() if array is not None}


def single(**changed) -> dict[str, np.ndarray]:
    """Images and labels without a test split."""
    return {"x": TRAIN, "y": LABELS} | changed


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "my set.npz"


def load(file: Path, content: dict[str, np.ndarray], **asked):
    np.savez(file, **content)
    return load_data({"name": f"npz:{file}", **asked})


def refused(file: Path, content: dict[str, np.ndarray] | None = None, **asked) -> str:
    """The message, which is one line and names the file."""
    if content is not None:
        np.savez(file, **content)
    with pytest.raises(InputError) as caught:
        load_data({"name": f"npz:{file}", **asked})
    message = str(caught.value)
    assert message == one_line(message)
    assert str(file) in message
    return message


# What is read.


def test_the_arrays_of_medmnist_are_read_and_val_is_told_to_be_unused(file, capsys):
    dataset = load(file, medmnist())
    assert (dataset.name, dataset.variant) == ("npz:my set.npz", "my set.npz (npz, 5x6, 3 classes)")
    assert (dataset.class_names, dataset.image_shape, dataset.test_held_out) == (("0", "1", "2"), (5, 6, 3), False)
    for split, images in ((dataset.train, TRAIN), (dataset.test, TEST)):
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int32)
        np.testing.assert_array_equal(split.images, images)
        np.testing.assert_array_equal(split.labels, LABELS[: len(images)])
    assert capsys.readouterr().err == f"{file}: val_images (3 images) is not used\n"


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("X_train", "y_train", "X_test", "y_test"),
        ("x", "y", "x_test", "y_test"),
        ("images", "labels", "test_images", "test_labels"),
        ("train_images", "train_labels", "val_images", "val_labels"),
        ("x_train", "y_train", "x_val", "y_val"),
    ],
)
def test_arrays_have_several_names(names, file):
    dataset = load(file, dict(zip(names, (TRAIN, LABELS, TEST, LABELS[:6]), strict=True)))
    np.testing.assert_array_equal(dataset.train.images, TRAIN)
    np.testing.assert_array_equal(dataset.test.images, TEST)


@pytest.mark.parametrize("names", [("x", "y"), ("X", "y"), ("images", "labels"), ("x_train", "y_train")])
def test_without_test_images_a_share_of_each_class_is_held_out(names, file):
    content = dict(zip(names, (TRAIN, LABELS), strict=True))
    dataset = load(file, content, validation=0.3)
    assert dataset.test_held_out
    assert [np.bincount(split.labels).tolist() for split in (dataset.train, dataset.test)] == [[2] * 3, [1] * 3]
    again = {image.tobytes() for split in (dataset.train, dataset.test) for image in split.images}
    assert again == {image.tobytes() for image in TRAIN}
    assert "has no test images; set data.validation to the share of each class to test on" in refused(file)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([(), (1,), (3,)]).flatmap(
        lambda end: st.tuples(st.integers(4, 9), st.integers(4, 9)).flatmap(
            lambda size: arrays(np.uint8, (4, *size, *end))
        )
    ),
    st.booleans(),
)
def test_images_are_read_as_they_were_written(images, fortran):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.npz"
        stored, labels = np.asfortranarray(images) if fortran else images, np.array([0, 1, 1, 0], np.int16)
        np.savez_compressed(path, x=stored, y=labels, x_test=images[:2], y_test=labels[:2, None])
        dataset = load_data({"name": f"npz:{path}"})
    wanted = images[..., None] if images.ndim == 3 else images
    np.testing.assert_array_equal(dataset.train.images, wanted)
    np.testing.assert_array_equal(dataset.test.images, wanted[:2])
    assert dataset.train.labels.tolist() == [0, 1, 1, 0]


def test_images_are_resized_and_converted_as_those_of_other_sets_are(file):
    dataset = load(file, medmnist(), image_size=4, channels=1)
    assert (dataset.image_shape, dataset.variant) == ((4, 4, 1), "my set.npz (npz, 4x4, 3 classes)")
    for found, image in zip(dataset.test.images, TEST, strict=True):
        np.testing.assert_array_equal(found, cut(Image.fromarray(image).convert("L"), 4))


def test_greyscale_becomes_three_equal_channels(file):
    grey = {"train_images": TRAIN[..., 0], "test_images": TEST[..., 0], "val_images": None, "val_labels": None}
    dataset = load(file, medmnist(**grey), channels=3)
    np.testing.assert_array_equal(dataset.train.images, np.repeat(TRAIN[..., :1], 3, axis=-1))
    assert load(file, medmnist(**grey)).image_shape == (5, 6, 1)


def test_splits_of_two_shapes_need_one_size(file):
    other = medmnist(test_images=noise(3, 6, 8, 8))
    message = refused(file, other)
    assert "train_images has images of shape (5, 6, 3) and test_images of (8, 8, 1); set data.image_size" in message
    assert "data.image_size" in refused(file, other, image_size=4)  # one channel, and three
    assert load(file, other, image_size=4, channels=3).test.images.shape == (6, 4, 4, 3)


# Class names.


@pytest.mark.parametrize("kind", [str, np.bytes_])
def test_the_file_may_name_its_classes(kind, file):
    named = medmnist(class_names=np.array(["red", "green", "blue"]).astype(kind))
    assert load(file, named).class_names == ("red", "green", "blue")
    other = load(file, named, class_names="blue,red,green")
    assert other.class_names == ("blue", "red", "green")
    assert other.train.labels[:3].tolist() == [1, 2, 0]


def test_class_names_may_be_given(file):
    dataset = load(file, medmnist(), class_names="red,green,blue")
    assert dataset.class_names == ("red", "green", "blue")
    assert dataset.train.labels[:3].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("red,green", "train_labels has the label 2, but there are 2 class names; correct one of them"),
        ("a,b,c,d", "no image of train_labels has the label 3 (d)"),
    ],
)
def test_another_number_of_class_names_is_refused(names, message, file):
    assert message in refused(file, medmnist(), class_names=names)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (np.array(["a", "b", "c\x1b"]), "class_names: the name of class 2 holds characters that cannot be printed"),
        (np.array(["a", "b", "a"]), "class_names: classes 0 and 2 have the same name, 'a'"),
        (np.array([b"a", b"b", b"\xff"]), "class_names: 'utf-8' codec can't decode"),
        (np.arange(3), "class_names is int64 of shape (3,); save text"),
        (np.array(["a", "b", "c"], object), "class_names is object of shape (3,); save text"),
    ],
)
def test_class_names_of_the_file_that_cannot_be_used_are_refused(names, message, file):
    assert message in refused(file, medmnist(class_names=names))


# Arrays that cannot be used.


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": TRAIN, "b": LABELS}, "holds a, b; name the arrays train_images and train_labels, x_train and y_train"),
        ({"test_images": TEST, "test_labels": LABELS}, "holds test_images, test_labels; name the arrays"),
        ({}, "holds no array; name the arrays train_images and train_labels"),
        (medmnist(train_labels=None), "has train_images and no train_labels; add it"),
        (medmnist(test_images=None), "has test_labels and no test_images; add it"),
        (
            single(x=TRAIN / 255),
            "x is float64 of shape (9, 5, 6, 3); give uint8 with values from 0 to 255, as in np.rou",
        ),
        (single(x=TRAIN.astype(int)), "x is int64 of shape (9, 5, 6, 3); give uint8 with values from 0 to 255"),
        (single(x=TRAIN.transpose(0, 3, 1, 2)), "channels first; give channels last: x.transpose(0, 2, 3, 1)"),
        (single(x=TRAIN.reshape(9, -1)), "x is uint8 of shape (9, 90); give (n, height, width), or (n, height, width"),
        (single(x=noise(0, 9, 5, 6, 4)), "x is uint8 of shape (9, 5, 6, 4); give (n, height, width)"),
        (single(x=noise(0, 9, 5, 5, 5, 1)), "x is uint8 of shape (9, 5, 5, 5, 1); give (n, height, width)"),
        (single(x=TRAIN[:0]), "x is uint8 of shape (0, 5, 6, 3); give"),
        (single(x=TRAIN.astype(object)), "x holds Python objects, which are never loaded; save an array"),
        (single(y=LABELS.astype(object)), "y holds Python objects, which are never loaded; save an array"),
        (single(y=np.eye(3)[LABELS]), "y is float64 of shape (9, 3), several values an image; give one class number"),
        (single(y=LABELS[:8]), "y is int64 of shape (8,); give an integer, the class number, for each of the 9 images"),
        (single(y=LABELS.astype(float)), "y is float64 of shape (9,); give an integer"),
        (single(y=LABELS == 1), "y is bool of shape (9,); give an integer"),
        (single(y=np.array(["a", "b", "c"] * 3)), "y is <U1 of shape (9,); give an integer"),
        (single(y=LABELS + 1), "y has the labels 1 to 3; number the classes from 0 on: y - 1"),
        (single(y=LABELS * 2), "no image of y has the label 1; number the classes from 0 on without gaps"),
        (single(y=LABELS - 1), "y has the label -1; give class numbers from 0 on"),
        (single(y=LABELS.astype(np.uint64) + 2**63), "y has the label 9223372036854775810; give class numbers from 0"),
        (single(y=LABELS * 0), "all images have the label 0; give images of two classes or more"),
        (
            medmnist(test_labels=np.arange(6)),
            "test_labels has the label 5, but there are the labels 0 to 2 in train_la",
        ),
        (medmnist(test_labels=np.arange(6) % 2), "no image of test_labels has the label 2"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused_with_the_remedy(content, message, file):
    assert message in refused(file, content, validation=0.3)


def test_images_in_one_file_cannot_be_streamed(file):
    assert "read as a whole; leave data.stream out" in refused(file, single(), stream=True, image_size=4)


# Files that cannot be used.


def whole(**content) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **content)
    return buffer.getvalue()


def array_file(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def zip_of(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def flipped(content: bytes) -> bytes:
    """With one bit of an image changed, which the checksum of the zip file tells."""
    place = content.index(TRAIN.tobytes()[:64]) + 10
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no npz file, or a damaged one"),
        (b"a text", "is no npz file, or a damaged one"),
        (whole(**single())[:-100], "is no npz file, or a damaged one"),
        (flipped(whole(**single())), "is no npz file, or a damaged one"),
        (array_file(TRAIN), "is a single array; write images and labels with np.savez"),
        (zip_of(x=array_file(TRAIN)[:200], y=array_file(LABELS)), "is no npz file, or a damaged one"),
        (zip_of(x=b"no array", y=array_file(LABELS)), "is no npz file, or a damaged one"),
    ],
    ids=["empty", "text", "cut off", "flipped", "npy", "array cut off", "no array"],
)
def test_a_file_that_is_none_is_refused_and_named(content, message, file):
    file.write_bytes(content)
    assert message in refused(file, validation=0.3)


def test_a_missing_file_and_a_folder_are_named(file, tmp_path):
    assert f"there is no file {file}; correct data.name" in refused(file)
    with pytest.raises(InputError, match="which is a folder; give a file"):
        load_data({"name": f"npz:{tmp_path}"})


def test_another_place_is_a_file_or_the_folder_it_lies_in(file, tmp_path):
    np.savez(file, **single())
    for place in (file, tmp_path):
        found = load_data({"name": "npz:/nowhere/my set.npz", "dir": str(place), "validation": 0.3})
        assert (found.name, len(found.train.labels)) == ("npz:my set.npz", 6)


def test_more_than_memory_holds_is_refused_before_it_is_read(file, monkeypatch):
    """The file says that it holds 16 TB."""
    header = io.BytesIO()
    about = {"descr": "|u1", "fortran_order": False, "shape": (2**20, 2**12, 2**12, 1)}
    np.lib.format.write_array_header_1_0(header, about)
    file.write_bytes(zip_of(x=header.getvalue(), y=array_file(LABELS)))
    monkeypatch.setattr(memory, "available_memory", lambda: 10**9)
    monkeypatch.setattr(npz, "_read", lambda *_: pytest.fail("an array was read"))
    assert f"the 1048576 images of {file} take" in refused(file, validation=0.3)
