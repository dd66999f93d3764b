"""A user's images in folders: which are read, in which order, and messages for unusable folders."""

import io
import os
import shutil
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from configs import default
from osp_jax.data import image_folder, memory
from osp_jax.data.sources import load_data
from osp_jax.data.stored import StoredImages, cut
from osp_jax.runtime.errors import InputError, one_line
from osp_jax.training.loop import training_indices


def write(path: Path, image: np.ndarray | Image.Image, **given) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(path, **{"format": "PNG", **given})
    return path


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape or (6, 6, 3), np.uint8)


def classes(root: Path, *names: str, images: int = 3) -> Path:
    """A folder for each class, with images of noise."""
    for number, name in enumerate(names):
        for i in range(images):
            write(root / name / f"{i}.png", noise(100 * number + i))
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """cat and dog, three training and two test images each."""
    classes(tmp_path / "pets" / "train", "cat", "dog")
    classes(tmp_path / "pets" / "test", "cat", "dog", images=2)
    return tmp_path / "pets"


def load(folder: Path, **given):
    return load_data({"name": f"folder:{folder}", **given})


def refused(folder: Path, **given) -> str:
    """The message, which is one line."""
    with pytest.raises(InputError) as caught:
        load(folder, **given)
    message = str(caught.value)
    assert message == one_line(message)
    return message


# What is read.


def test_a_folder_of_train_and_test_is_read_whole(folder):
    dataset = load(folder)
    assert (dataset.name, dataset.variant) == ("folder:pets", "folder pets (PNG, 6x6, 2 classes)")
    assert (dataset.class_names, dataset.image_shape, dataset.test_held_out) == (("cat", "dog"), (6, 6, 3), False)
    for split, images in ((dataset.train, 3), (dataset.test, 2)):
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int32)
        assert split.labels.tolist() == [0] * images + [1] * images
        wanted = [noise(100 * number + i) for number in range(2) for i in range(images)]
        np.testing.assert_array_equal(split.images, wanted)


def test_classes_and_files_are_sorted_by_name_as_image_folder_does(tmp_path):
    classes(tmp_path, "b", "10", "9", "A")
    write(tmp_path / "A" / "10.png", noise(5))
    dataset = load(tmp_path, validation=0.3)
    assert dataset.class_names == ("10", "9", "A", "b")
    shutil.move(tmp_path / "A" / "10.png", tmp_path / "A" / "3.png")  # from between 1 and 2 to the end
    moved = load(tmp_path, validation=0.3)
    assert dataset.train.images.sum() + dataset.test.images.sum() == moved.train.images.sum() + moved.test.images.sum()
    np.testing.assert_array_equal(image_folder.list_images(tmp_path).train.files["A"][-1], str(tmp_path / "A/3.png"))


IMAGES = st.integers(1, 3).flatmap(
    lambda channels: st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
        lambda size: arrays(np.uint8, (4, *size) if channels < 3 else (4, *size, 3))
    )
)


@settings(max_examples=25, deadline=None)
@given(IMAGES)
def test_png_files_read_back_pixel_for_pixel(images):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for number, image in enumerate(images):
            write(Path(folder) / "train" / str(number // 2) / f"{number}.png", image)
            write(Path(folder) / "test" / str(number // 2) / f"{number}.png", image)
        dataset = load(Path(folder))
    for split in (dataset.train, dataset.test):
        np.testing.assert_array_equal(split.images, images[..., None] if images.ndim == 3 else images)


@pytest.mark.parametrize("name", ["test", "Testing", "val", "VALID", "validation"])
def test_the_test_split_has_several_names(name, folder):
    (folder / "test").rename(folder / name)
    (folder / "train").rename(folder / "Train")
    assert len(load(folder).test.labels) == 4


def test_of_several_test_folders_one_is_used_and_the_others_are_named(folder, capsys):
    classes(folder / "val", "cat", "dog", images=1)
    assert len(load(folder).test.labels) == 4
    assert f"{folder / 'val'} is not used: the test images are those of {folder / 'test'}" in capsys.readouterr().err


def test_a_test_folder_without_classes_is_not_used(folder, capsys):
    shutil.rmtree(folder / "test")
    write(folder / "test" / "1.png", noise(1))
    classes(folder / "val", "cat", "dog", images=1)
    assert len(load(folder).test.labels) == 2
    assert f"{folder / 'test'} is not used: it has no folders of classes" in capsys.readouterr().err


def test_images_may_lie_deeper_and_behind_links(folder, tmp_path):
    deep = folder / "train" / "cat" / "2024" / "may"
    write(deep / "x.png", noise(7))
    (folder / "train" / "dog" / "more").symlink_to(classes(tmp_path, "elsewhere") / "elsewhere")
    (folder / "train" / "dog" / "9.png").symlink_to(deep / "x.png")
    assert np.bincount(load(folder).train.labels).tolist() == [4, 7]


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
@pytest.mark.parametrize("suffix", [".JPG", ".png", ""])
def test_the_format_is_that_of_the_content(name, suffix, folder):
    if name in ("BMP", "PPM") and not suffix:
        pytest.skip("two letters are no proof of an image")
    for split in ("train", "test"):
        for path in (folder / split).rglob("*.png"):
            write(path.with_suffix(suffix), Image.open(path).convert("RGB"), format=name)
            if suffix != ".png":
                path.unlink()
    dataset = load(folder)
    assert dataset.variant == f"folder pets ({name}, 6x6, 2 classes)"
    assert len(dataset.train.labels) == 6


def test_what_is_no_image_is_passed_over_and_counted(folder, capsys):
    (folder / "README.md").write_text("pets")
    (folder / "train" / "labels.csv").write_text("1,2")
    (folder / "train" / "logo.svg").write_text("<svg/>")
    write(folder / "train" / "stray.png", noise(0))
    for name in (".DS_Store", "Thumbs.db", "._0.png"):
        (folder / "train" / "cat" / name).write_bytes(b"x")
    write(folder / "train" / ".cache" / "1.png", noise(0))
    write(folder / "train" / "cat" / ".thumbnails" / "1.png", noise(0))
    (folder / "train" / "cat" / "about.txt").write_text("a cat")
    (folder / "train" / "cat" / "notes").write_text("a cat")
    dataset = load(folder)
    assert (dataset.class_names, len(dataset.train.labels)) == (("cat", "dog"), 6)
    told, text = capsys.readouterr().err.splitlines(), f"'{folder}/train/cat/about.txt'"
    assert told == [
        f"{folder}/train: not read: files in class folders that are no images (2, such as {text})",
        f"{folder}/train: not read: images beside the class folders (1, such as '{folder}/train/stray.png')",
    ]


def modes() -> dict[str, Image.Image]:
    colour = Image.fromarray(noise(3))
    clear = Image.fromarray(noise(4, 6, 6, 4), "RGBA")
    palette = colour.quantize(16)
    palette.info["transparency"] = bytes(range(16))
    return {
        "palette": colour.quantize(16),
        "palette with transparency": palette,
        "RGBA": clear,
        "LA": clear.convert("LA"),
        "1 bit": colour.convert("1"),
        "greyscale": colour.convert("L"),
        "CMYK": colour.convert("CMYK"),
    }


@pytest.mark.parametrize("mode", list(modes()))
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_is_converted_as_image_folder_does(mode, channels, folder):
    written = modes()[mode]
    path = write(folder / "train" / "cat" / "0.png", written, format="TIFF" if mode == "CMYK" else "PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = Image.open(path).convert("RGB")
        grey = Image.open(path).convert("L")
    wanted = np.asarray(wanted if channels == 3 else grey).reshape(6, 6, channels)
    found = load(folder, channels=channels).train.images[0]
    if mode.startswith("palette") and channels == 1:  # Pillow rounds on another way
        np.testing.assert_allclose(found.astype(int), wanted, atol=1)
    else:
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bits_are_scaled_to_eight_and_told(suffix, folder, capsys):
    values = np.random.default_rng(0).integers(0, 65536, (6, 6)).astype(np.uint16)
    for path in [*folder.rglob("*.png")]:
        path.unlink()
        if suffix == "pgm":
            path.with_suffix(".pgm").write_bytes(b"P5 6 6 65535\n" + values.astype(">u2").tobytes())
        else:
            Image.fromarray(values).save(path.with_suffix(f".{suffix}"))
    dataset = load(folder)
    assert dataset.image_shape == (6, 6, 1)
    np.testing.assert_array_equal(dataset.train.images[0, ..., 0], values >> 8)
    assert "10 images of 16 bits a pixel are scaled to 8 bits" in capsys.readouterr().err


def test_pixels_of_32_bits_are_refused(folder):
    path = folder / "train" / "cat" / "0.tif"
    Image.fromarray(np.ones((6, 6), np.float32)).save(path)
    assert f"'{path}' is damaged, or no image of a kind that can be read (its pixels are not of 8" in refused(folder)


def test_the_orientation_of_a_camera_is_not_applied(folder):
    turned = Image.Exif()
    turned[0x0112] = 6
    plain, path = load(folder).train.images[0], folder / "train" / "cat" / "0.png"
    write(path, plain, exif=turned)
    np.testing.assert_array_equal(load(folder).train.images[0], plain)


def test_of_several_frames_the_first_is_taken(folder):
    frames = [Image.fromarray(noise(i, 6, 6)) for i in range(3)]
    path = folder / "train" / "cat" / "0.tif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    (folder / "train" / "cat" / "0.png").unlink()
    np.testing.assert_array_equal(load(folder, channels=1).train.images[0, ..., 0], frames[0])


def test_greyscale_has_one_channel_where_all_images_are(folder):
    for path in folder.rglob("*.png"):
        write(path, Image.open(path).convert("L"))
    grey, colour = load(folder), load(folder, channels=3)
    assert (grey.image_shape, colour.image_shape) == ((6, 6, 1), (6, 6, 3))
    np.testing.assert_array_equal(colour.train.images, np.repeat(grey.train.images, 3, axis=-1))
    write(folder / "test" / "dog" / "9.png", noise(0))
    assert load(folder).image_shape == (6, 6, 3)


def test_images_of_any_size_are_cut_to_a_square_and_resized(folder):
    path = write(folder / "train" / "cat" / "0.png", noise(9, 12, 30, 3))
    found = load(folder, image_size=4)
    assert (found.image_shape, found.variant) == ((4, 4, 3), "folder pets (PNG, 4x4, 2 classes)")
    np.testing.assert_array_equal(found.train.images[0], cut(Image.open(path), 4))


@pytest.mark.parametrize("name", ["with space", "a:b", "naïve", "train"])
def test_the_path_may_have_any_characters(name, folder, tmp_path):
    assert len(load(folder.rename(tmp_path / name)).train.labels) == 6


def test_the_path_may_begin_at_home(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert len(load(Path("~/pets")).train.labels) == 6


def test_another_place_stands_in_for_the_path(folder, tmp_path):
    moved = folder.rename(tmp_path / "elsewhere")
    found = load_data({"name": f"folder:{tmp_path}/pets", "dir": str(moved)})
    assert (found.name, len(found.train.labels)) == ("folder:pets", 6)


def test_two_thousand_classes(tmp_path):
    image = io.BytesIO()
    Image.fromarray(noise(0, 1, 1, 3)).save(image, "PNG")
    for number in range(2000):
        (tmp_path / f"{number:04}").mkdir()
        for i in range(2):
            (tmp_path / f"{number:04}" / f"{i}.png").write_bytes(image.getvalue())
    dataset = load(tmp_path, validation=0.1, class_names=",".join(f"{number:04}" for number in range(1999, -1, -1)))
    assert (dataset.num_classes, len(dataset.train.labels), dataset.train.labels[0]) == (2000, 2000, 1999)


# Without test images.


def test_without_test_images_a_share_of_each_class_is_held_out(tmp_path):
    classes(tmp_path, "cat", "dog", images=10)
    classes(tmp_path, "eel", images=2)
    dataset = load(tmp_path, validation=0.2)
    assert dataset.test_held_out
    assert np.bincount(dataset.train.labels).tolist() == [8, 8, 1]
    assert np.bincount(dataset.test.labels).tolist() == [2, 2, 1]
    together = {image.tobytes() for split in (dataset.train, dataset.test) for image in split.images}
    assert len(together) == 20  # the eels look like the first cats
    np.testing.assert_array_equal(load(tmp_path, validation=0.2).test.images, dataset.test.images)


def test_a_training_holds_no_more_images_out(tmp_path, folder):
    config = default.get_config()
    config.data.validation = 0.34
    for place, held_out in ((classes(tmp_path / "one", "cat", "dog"), 0), (folder, 2)):
        dataset = load(place, validation=0.34)
        train, validation = training_indices(config, dataset)
        assert (len(validation), len(train) + len(validation)) == (held_out, len(dataset.train.labels))


def test_without_test_images_and_a_share_the_remedy_is_named(folder):
    shutil.rmtree(folder / "test")
    for place in (folder, folder / "train"):
        message = refused(place)
        assert f"{folder / 'train'} has no test images; set data.validation" in message
        assert "--config.data.validation=0.2" in message
        assert "--validation=0.2" in message


def test_a_class_of_one_image_cannot_be_split(folder):
    classes(folder / "train", "eel", images=1)
    assert "class 'eel' has 1 image, which cannot be split; add images of it" in refused(
        folder / "train", validation=0.2
    )


# The order of the classes.


def test_classes_are_numbered_as_their_names_are_given(folder):
    plain, other = load(folder), load(folder, class_names="dog, cat")
    assert other.class_names == ("dog", "cat")
    np.testing.assert_array_equal(other.test.labels, 1 - plain.test.labels)
    np.testing.assert_array_equal(other.test.images, plain.test.images)


def test_a_class_name_may_hold_a_comma(folder):
    for split in ("train", "test"):
        (folder / split / "cat").rename(folder / split / "cat, tame")
    assert load(folder, class_names='dog,"cat, tame"').class_names == ("dog", "cat, tame")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("cat,dog,eel", "data.class_names has 'eel', which is no class of folder:pets; it has: cat, dog"),
        ("cat", "data.class_names lacks 'dog', a class of folder:pets; give each of its 2 classes once"),
        ("cat,dog,cat", "classes 0 and 2 have the same name, 'cat'"),
        ("cat,,dog", "the name of class 1 has 0 characters"),
    ],
)
def test_other_class_names_are_refused_and_named(names, message, folder):
    assert message in refused(folder, class_names=names)


# Images that stay in their files.


def test_streamed_images_are_those_in_memory(folder):
    write(folder / "train" / "dog" / "5.png", noise(3, 9, 5, 3))
    stored, whole = (load(folder, image_size=4, stream=stream) for stream in (True, False))
    assert isinstance(stored.train.images, StoredImages)
    assert stored.variant == whole.variant
    for name in ("train", "test"):
        np.testing.assert_array_equal(getattr(stored, name).images[:], getattr(whole, name).images)
        np.testing.assert_array_equal(getattr(stored, name).labels, getattr(whole, name).labels)


def test_a_streamed_image_that_is_damaged_is_named_when_it_is_read(folder):
    path = folder / "train" / "dog" / "1.png"
    dataset = load(folder, image_size=4, stream=True)
    path.write_bytes(path.read_bytes()[:60])
    assert dataset.train.images[[0, 3]].shape == (2, 4, 4, 3)
    with pytest.raises(InputError, match=rf"'{path}' is damaged.*; delete it, or replace it by a whole one"):
        dataset.train.images[4]


def test_images_that_stay_in_their_files_need_a_size(folder):
    assert "data.stream needs images of one size; give data.image_size" in refused(folder, stream=True)


# What cannot be used.


def png_of(width: int, height: int) -> bytes:
    """A file that says it is of this size, and holds no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((13, header), (0, b"IDAT"))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", size) + chunk + struct.pack(">I", zlib.crc32(chunk)) for size, chunk in chunks
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty (0 bytes)"),
        (b"a text", "is damaged, or no image of the formats JPEG, PNG"),
        (b"\x89PNG\r\n\x1a\n", "is damaged, or no image of the formats JPEG, PNG"),
        ("half", "is damaged, or no image of a kind that can be read"),
        ("flipped", "is damaged, or no image of a kind that can be read"),
        (png_of(60_000, 60_000), "is too large an image"),
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_damaged_image_is_named(content, message, suffix, folder):
    path = folder / "test" / "dog" / f"9{suffix}"
    if isinstance(content, str):
        write(path, noise(0), format="PNG")
        whole = path.read_bytes()
        middle = len(whole) // 2
        content = whole[:middle] if content == "half" else whole[:middle] + bytes(8) + whole[middle + 8 :]
    path.write_bytes(content)
    for asked in ({}, {"image_size": 4}, {"channels": 3}):
        found = refused(folder, **asked)
        assert f"'{path}' {message}" in found
        assert "delete it, or replace it by a whole one" in found


def test_images_of_several_sizes_are_refused_with_two_of_them(folder):
    other = write(folder / "test" / "cat" / "9.png", noise(0, 5, 7, 3))
    first = folder / "train" / "cat" / "0.png"
    message = refused(folder)
    assert message.startswith(f"images differ in size: 6x6 ('{first}') and 5x7 ('{other}'); set data.image_size")


def link_in_a_circle(folder: Path) -> None:
    (folder / "train" / "cat" / "again").symlink_to(folder / "train")


BAD = {
    "a class without images": (
        lambda folder: [path.unlink() for path in (folder / "train" / "dog").iterdir()],
        "the class folder '{folder}/train/dog' holds no images; add some or delete it",
    ),
    "a class of other files": (
        lambda folder: [path.rename(path.with_suffix(".raw2")) for path in (folder / "train" / "dog").iterdir()],
        "the class folder '{folder}/train/dog' holds no images (3 other files, such as '0.raw2'); add some or delete",
    ),
    "a format of cameras": (
        lambda folder: (folder / "train" / "dog" / "9.HEIC").write_bytes(b"x"),
        "'{folder}/train/dog/9.HEIC' is of a format that cannot be read; convert it to JPEG or PNG",
    ),
    "no classes": (
        lambda folder: [shutil.rmtree(folder / "train" / name) for name in ("cat", "dog")],
        "{folder}/train has no folder for a class; put the images of each class into a folder of its own",
    ),
    "one class": (
        lambda folder: [shutil.rmtree(folder / split / "cat") for split in ("train", "test")],
        "{folder}/train has one class only, 'dog'; give images of two classes or more",
    ),
    "a folder too high": (
        lambda folder: (
            shutil.move(folder / "train", folder.with_name("moved"))
            and shutil.move(folder.with_name("moved"), folder / "train" / "inner")
        ),
        "{folder}/train has one class only, 'inner'; is it folder:{folder}/train/inner?",
    ),
    "a class of the test split alone": (
        lambda folder: classes(folder / "test", "eel"),
        "{folder}/test has the class 'eel', which {folder}/train lacks; add it there or delete it",
    ),
    "a class of the training split alone": (
        lambda folder: classes(folder / "train", "eel"),
        "{folder}/test lacks the class 'eel', which {folder}/train has; add some images of it",
    ),
    "names up to case": (
        lambda folder: classes(folder / "train", "Cat"),
        "{folder}/train has the classes 'Cat' and 'cat', the same up to case; rename or merge",
    ),
    "names that look the same": (
        lambda folder: classes(folder / "train", "caf\u00e9", "cafe\u0301"),
        "{folder}/train has two folders whose names look the same; rename or merge them",
    ),
    "a name that cannot be printed": (
        lambda folder: classes(folder / "train", "a\x1b[31m"),
        "{folder}/train: the name of class 0 holds characters that cannot be printed: 'a\\x1b[31m'; rename the folder",
    ),
    "a name that is not Unicode": (
        lambda folder: classes(folder / "train", os.fsdecode(b"a\xff")),
        "{folder}/train: the name of class 0 holds characters that cannot be printed",
    ),
    "a link to nothing": (
        lambda folder: (folder / "train" / "cat" / "9.png").symlink_to("/nowhere"),
        "'{folder}/train/cat/9.png' is a link to nothing; delete or correct it",
    ),
    "a link to itself": (
        lambda folder: (folder / "train" / "cat" / "9.png").symlink_to("9.png"),
        "'{folder}/train/cat/9.png' is a link to nothing; delete or correct it",
    ),
    "links in a circle": (
        link_in_a_circle,
        "'{folder}/train/cat/again/cat' is a link to a folder that it lies in; delete it",
    ),
    "no folder": (shutil.rmtree, "there is no folder '{folder}'; correct data.name"),
    "an empty folder": (
        lambda folder: [shutil.rmtree(folder / split) for split in ("train", "test")],
        "{folder} has no folder for a class",
    ),
    "images without classes": (
        lambda folder: (
            [shutil.rmtree(folder / split) for split in ("train", "test")] and write(folder / "1.png", noise(0))
        ),
        "{folder} has no folder for a class",
    ),
    "no training images": (
        lambda folder: shutil.rmtree(folder / "train"),
        "{folder} has 'test', but no folder 'train'; add it",
    ),
    "a class that may be the training images": (
        lambda folder: (folder / "test").rename(folder / "plane"),
        "{folder}/train holds folders, and next to it are 'plane' and no test folder; give folder:{folder}/train",
    ),
}


@pytest.mark.parametrize("what", list(BAD))
def test_a_folder_that_cannot_be_used_is_refused_with_the_remedy(what, folder):
    damage, message = BAD[what]
    damage(folder)
    assert message.format(folder=folder) in refused(folder)


def test_a_folder_of_one_image_is_refused(tmp_path):
    write(tmp_path / "cat" / "1.png", noise(0))
    assert "one class only, 'cat'; give images of two classes or more" in refused(tmp_path, validation=0.5)


def test_train_is_a_class_where_images_lie_in_it_beside_other_classes(tmp_path):
    assert load(classes(tmp_path, "plane", "train"), validation=0.4).class_names == ("plane", "train")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder:", "data.name is 'folder:'; give folder:PATH, the folder of the images"),
        ("folder:{file}", "/pets/train/cat/0.png', which is a file; give a folder"),
        ("folder:{folder}/\x1b", "give 'digits', the name of a TFDS set, 'folder:PATH', 'npz:FILE' or 'text:FILE'"),
        ("folder:~nobody_of_this_name/x", "that home folder is not known"),
        ("{folder}", "give 'folder:"),
        ("Folder:x y", "folder:PATH for images in folders, npz:FILE, or text:FILE"),
    ],
)
def test_a_name_that_is_none_is_refused(name, message, folder):
    about = {"folder": folder, "file": folder / "train" / "cat" / "0.png"}
    with pytest.raises(InputError) as caught:
        load_data({"name": name.format(**about)})
    assert message.format(**about) in str(caught.value)


def test_files_that_may_not_be_read_are_named(folder, monkeypatch):
    path = str(folder / "train" / "dog" / "2.png")

    def open_(name, **given):
        if name == path:
            raise PermissionError(13, "Permission denied", name)
        return opened(name, **given)

    opened = Image.open
    monkeypatch.setattr(Image, "open", open_)
    assert f"the image '{path}' cannot be read (Permission denied); let your user read it" in refused(folder)


def test_more_images_than_memory_holds_are_refused_before_any_is_decoded(folder, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    monkeypatch.setattr(image_folder, "read_image", lambda *_: pytest.fail("an image was decoded"))
    message = refused(folder)
    assert f"the 10 images of {folder} at 6x6 pixels take 0.0 GB" in message
    assert "data.image_size or use data.stream" in message
