"""Data sets by name: the digits, and small TFDS folders, without a network."""

import functools
import io
import socket
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import default
from osp_jax.data import prepare as preparing
from osp_jax.data.sources import load_data, load_dataset
from osp_jax.runtime.errors import InputError
from tests.data import small_archives

prepare = functools.partial(
    preparing.prepare, accept_unknown_archive=True
)  # the archives of these tests are small ones


@pytest.fixture
def no_network(monkeypatch):
    def fail(*args, **kwargs):
        raise urllib.error.URLError(socket.gaierror(-2, "Name or service not known"))

    monkeypatch.setattr(urllib.request, "urlopen", fail)


@pytest.fixture
def cifar10(tmp_path) -> Path:
    """The TFDS folder that holds a prepared CIFAR-10 of 20 and 4 images."""
    prepare("cifar10", tmp_path, small_archives.cifar10(tmp_path)[0])
    return tmp_path


def in_order(images: np.ndarray, labels: np.ndarray) -> list[tuple[bytes, int]]:
    return sorted((image.astype(np.uint8).tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


def tiny_imagenet(folder: Path, size: int) -> Path:
    """A prepared Tiny ImageNet with images of `size` pixels a side."""
    members = small_archives.tiny_imagenet_members()
    images = [name for name in members if name.endswith(".JPEG")]
    members |= {name: small_archives.jpeg(seed, size) for seed, name in enumerate(images)}
    prepare("tiny_imagenet", folder, small_archives.zip_file(folder / "tiny-imagenet-200.zip", members))
    return folder


# The digits.


def test_the_digits_have_a_fixed_stratified_split():
    digits, again = load_dataset("digits"), load_dataset("digits")
    assert (len(digits.train.labels), len(digits.test.labels)) == (1437, 360)
    assert (digits.image_shape, digits.num_classes, digits.class_names[3]) == ((8, 8, 1), 10, "3")
    train, test = (np.bincount(split.labels) for split in (digits.train, digits.test))
    assert (abs(test - (train + test) * 360 / 1797) < 1).all()
    for name in ("train", "test"):
        left, right = getattr(digits, name), getattr(again, name)
        assert (left.images.dtype, left.labels.dtype) == (np.uint8, np.int32)
        np.testing.assert_array_equal(left.images, right.images)
        np.testing.assert_array_equal(left.labels, right.labels)


def test_the_digits_are_those_of_scikit_learn_each_once_from_black_to_white():
    from sklearn.datasets import load_digits

    digits, original = load_dataset("digits"), load_digits()
    images = np.concatenate([digits.train.images, digits.test.images])
    labels = np.concatenate([digits.train.labels, digits.test.labels])
    assert (images.min(), images.max()) == (0, 255)
    back = np.round(images[..., 0] * (16 / 255))
    assert in_order(back, labels) == in_order(original.images, original.target)


def test_the_digits_can_be_resized():
    digits = load_dataset("digits", image_size=16)
    assert digits.train.images.shape == (1437, 16, 16, 1)
    assert digits.variant == "digits (scikit-learn, 16x16)"
    small = Image.fromarray(load_dataset("digits").train.images[0, :, :, 0])
    np.testing.assert_array_equal(digits.train.images[0, :, :, 0], small.resize((16, 16)))


# TFDS folders.


def test_a_tfds_folder_is_read_whole_and_as_it_is(cifar10, tmp_path):
    _, labels, images = small_archives.cifar10(tmp_path)
    dataset = load_dataset("cifar10", str(cifar10))
    assert (dataset.name, dataset.variant) == ("cifar10", "cifar10 3.0.2 (PNG, 32x32)")
    assert dataset.class_names == tuple(small_archives.CIFAR10_NAMES)
    assert (dataset.train.images.dtype, dataset.train.labels.dtype) == (np.uint8, np.int32)
    assert in_order(dataset.train.images, dataset.train.labels) == in_order(images[:20], labels[:20, 0])
    assert in_order(dataset.test.images, dataset.test.labels) == in_order(images[20:], labels[20:, 0])


def test_the_tfds_folder_may_come_from_the_environment(cifar10, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(cifar10))
    assert len(load_dataset("cifar10").train.labels) == 20


def test_of_several_labels_the_fine_one_is_taken(tmp_path):
    archive, labels, images = small_archives.cifar100(tmp_path)
    prepare("cifar100", tmp_path, archive)
    dataset = load_dataset("cifar100", str(tmp_path))
    assert dataset.num_classes == 100
    assert in_order(dataset.train.images, dataset.train.labels) == in_order(images[:6], labels[:6, 1])


def test_images_are_resized_on_request(cifar10):
    plain, small = load_dataset("cifar10", str(cifar10)), load_dataset("cifar10", str(cifar10), image_size=16)
    assert small.variant == "cifar10 3.0.2 (PNG, 16x16)"
    for image, resized in zip(plain.test.images, small.test.images, strict=True):
        np.testing.assert_array_equal(resized, Image.fromarray(image).resize((16, 16)))


@pytest.mark.parametrize("size", [32, 64])
def test_any_image_size_is_read_and_the_validation_split_stands_in_for_a_test_split(size, tmp_path):
    dataset = load_dataset("tiny_imagenet", str(tiny_imagenet(tmp_path, size)))
    assert dataset.image_shape == (size, size, 3)
    assert dataset.variant == f"tiny_imagenet 1.0.0 (JPEG, {size}x{size})"
    assert (len(dataset.train.labels), len(dataset.test.labels)) == (6, 3)
    assert dataset.class_names == tuple(sorted(small_archives.WNIDS))


def test_grey_images_of_a_colour_set_are_read_in_colour(tmp_path):
    members = small_archives.tiny_imagenet_members()
    prepare("tiny_imagenet", tmp_path, small_archives.zip_file(tmp_path / "tiny-imagenet-200.zip", members))
    grey = np.asarray(Image.open(io.BytesIO(members["tiny-imagenet-200/val/images/val_2.JPEG"])))
    test = load_dataset("tiny_imagenet", str(tmp_path)).test
    (image,) = (image for image in test.images if (image[..., 0] == image[..., 1]).all())
    np.testing.assert_array_equal(image, np.stack([grey] * 3, axis=-1))


# Folders that cannot be read.


def shard(folder: Path, split: str = "train") -> Path:
    (path,) = folder.glob(f"cifar10/3.0.2/*{split}*array_record*")
    return path


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "damage",
    [
        lambda data_dir: shard(data_dir).unlink(),
        lambda data_dir: shard(data_dir, "test").unlink(),
        lambda data_dir: half(shard(data_dir)),
        lambda data_dir: shard(data_dir).write_bytes(b""),
        lambda data_dir: shard(data_dir).write_bytes(b"\0" * shard(data_dir).stat().st_size),
        lambda data_dir: (data_dir / "cifar10/3.0.2/dataset_info.json").unlink(),
        lambda data_dir: half(data_dir / "cifar10/3.0.2/dataset_info.json"),
        lambda data_dir: (data_dir / "cifar10/3.0.2/features.json").unlink(),
        lambda data_dir: half(data_dir / "cifar10/3.0.2/features.json"),
    ],
    ids=[
        "training shard missing",
        "test shard missing",
        "shard cut off",
        "shard empty",
        "shard overwritten",
        "dataset_info.json missing",
        "dataset_info.json cut off",
        "features.json missing",
        "features.json cut off",
    ],
)
def test_a_folder_that_is_not_whole_is_refused_and_named(damage, cifar10, no_network):
    damage(cifar10)
    with pytest.raises(InputError, match=str(cifar10 / "cifar10" / "3.0.2")):
        load_dataset("cifar10", str(cifar10))


def test_flipped_bytes_in_a_shard_are_noticed(cifar10):
    path = shard(cifar10)
    data = np.frombuffer(path.read_bytes(), np.uint8).copy()
    used = np.flatnonzero(data)  # the rest pads the file to whole blocks
    data[used[len(used) // 2]] ^= 255
    path.write_bytes(data.tobytes())
    with pytest.raises(InputError, match="damaged"):
        load_dataset("cifar10", str(cifar10))


def test_images_that_are_none_are_refused(cifar10, monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *_, **__: (_ for _ in ()).throw(OSError("cannot identify image file")))
    with pytest.raises(InputError, match=r"damaged \(image 0: cannot identify image file\); delete it"):
        load_dataset("cifar10", str(cifar10))


def test_a_missing_folder_without_network_says_what_to_put_where(tmp_path, no_network):
    with pytest.raises(InputError, match=r"\(no network\); put cifar-10-binary.tar.gz by hand into") as caught:
        load_dataset("cifar10", str(tmp_path))
    assert str(tmp_path / "downloads") in str(caught.value)


def test_an_unknown_data_set_is_refused(tmp_path, no_network):
    with pytest.raises(InputError, match="unknown data set 'digit'"):
        load_dataset("digit", str(tmp_path))


def test_a_negative_image_size_is_refused():
    with pytest.raises(InputError, match=r"data\.image_size is -1"):
        load_dataset("digits", image_size=-1)


# Settings of every data set.


def test_channels_of_any_set_can_be_converted(cifar10):
    grey, colour = load_dataset("digits"), load_data({"name": "digits", "channels": 3})
    np.testing.assert_array_equal(colour.test.images, np.repeat(grey.test.images, 3, axis=-1))
    about = {"name": "cifar10", "dir": str(cifar10)}
    colour, grey = load_data(about), load_data({**about, "channels": 1})
    wanted = [np.asarray(Image.fromarray(image).convert("L"))[..., None] for image in colour.test.images]
    np.testing.assert_array_equal(grey.test.images, wanted)


def test_classes_of_any_set_can_be_numbered_anew():
    plain, turned = load_data({"name": "digits"}), load_data({"name": "digits", "class_names": "9,8,7,6,5,4,3,2,1,0"})
    assert turned.class_names == tuple("9876543210")
    np.testing.assert_array_equal(turned.train.labels, 9 - plain.train.labels)
    with pytest.raises(InputError, match=r"data\.class_names lacks '9', a class of digits"):
        load_data({"name": "digits", "class_names": "0,1,2,3,4,5,6,7,8"})


def test_settings_of_a_data_set_are_checked_and_completed():
    with pytest.raises(InputError, match=r"data\.channels is 2; give 0, 1 or 3"):
        load_data({"name": "digits", "channels": 2})
    whole = load_data(default.get_config().data)  # a ConfigDict, as a config has it
    np.testing.assert_array_equal(whole.train.images, load_data({}).train.images)
