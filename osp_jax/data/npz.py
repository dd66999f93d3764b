"""A user's images in an npz file, with the array names of MedMNIST, Keras and others.

`train_images`, `train_labels`, `test_images`, `test_labels` (MedMNIST); `x_train`, `y_train`, `x_test`, `y_test`
(Keras); `x`, `y`; `images`, `labels`. `val_*` is the test split if there is no other, and unused otherwise. The headers
of the arrays are checked before any array is read, and nothing is ever unpickled.
"""

import math
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from osp_jax.data.class_names import check_class_names
from osp_jax.data.dataset import Dataset, Split, in_class_order
from osp_jax.data.memory import image_bytes, require_memory
from osp_jax.data.paths import check_readable
from osp_jax.data.splits import cut_test
from osp_jax.data.stored import cut
from osp_jax.runtime.errors import InputError, printable
from osp_jax.runtime.system_errors import code_of

# Names of (images, labels): the training split, then candidates for the test split in order of preference.
_KEYS = (
    (("train_images", "train_labels"), ("test_images", "test_labels"), ("val_images", "val_labels")),
    (("x_train", "y_train"), ("x_test", "y_test"), ("x_val", "y_val")),
    (("x", "y"), ("x_test", "y_test"), ("x_val", "y_val")),
    (("images", "labels"), ("test_images", "test_labels"), ("val_images", "val_labels")),
)
_WANTED = "train_images and train_labels, x_train and y_train, x and y, or images and labels"
_DAMAGE = (zipfile.BadZipFile, zlib.error, OSError, ValueError, EOFError, KeyError, NotImplementedError, RuntimeError)


@dataclass(frozen=True)
class _Array:
    """The header of an array."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype


def load_npz(
    path: Path,
    title: str,
    *,
    image_size: int = 0,
    channels: int = 0,
    stream: bool = False,
    validation: float = 0.0,
    class_names: Sequence[str] = (),
) -> Dataset:
    """Loads the images of the npz file `path`.

    Args:
      title: name of the data in records and reports.
      image_size: resizes the central square to this side, in pixels; 0 keeps the stored images.
      channels: 1 or 3 converts the images; 0 keeps the stored channels.
      validation: the share of each class that becomes the test split if there is none.
      class_names: in the order of the labels; or, if the file has `class_names`, another order of these.

    Raises:
      InputError: it is not an npz file or is damaged, lacks arrays, has arrays of the wrong type or shape or labels
        that are not class numbers, has no test split while `validation` is 0, or exceeds the memory.
    """
    if stream:
        raise InputError(f"the images of {path} are in one file and are read as a whole; leave data.stream out")
    arrays = _arrays_of(path)
    pairs, unused = _chosen(path, arrays)
    shapes = [_image_shape(path, images) for images, _ in pairs]
    if len({shape[1:] for shape in shapes}) > 1 and not (image_size and (channels or shapes[0][3] == shapes[1][3])):
        raise InputError(
            f"{path}: {pairs[0][0].name} has images of shape {shapes[0][1:]} and {pairs[1][0].name} of "
            f"{shapes[1][1:]}; set data.image_size and data.channels (import_model: --image_size, --channels)"
        )
    height, width, channels = _shape_read(shapes[0], image_size, channels)
    count, copied = sum(shape[0] for shape in shapes), len(pairs) == 1 or (height, width, channels) != shapes[0][1:]
    require_memory(
        sum(math.prod(shape) for shape in shapes) + copied * image_bytes(count, height, width, channels),
        f"the {count} images of {path}",
        "lower data.image_size or give fewer images",
    )
    labels = [
        _labels(path, of_labels, len_of_images)
        for (_, of_labels), (len_of_images, *_) in zip(pairs, shapes, strict=True)
    ]
    stored = _class_names(path, arrays)
    names = _check_classes(path, [part.name for _, part in pairs], labels, stored or tuple(class_names))
    if len(pairs) == 1:
        splits = cut_test(labels[0], validation, str(path), names)
        images = _converted(_read(path, pairs[0][0]), shapes[0], (height, width, channels))
        train, test = (Split(images[chosen], labels[0][chosen]) for chosen in splits)
    else:
        train, test = (
            Split(_converted(_read(path, images), shape, (height, width, channels)), of_labels)
            for (images, _), shape, of_labels in zip(pairs, shapes, labels, strict=True)
        )
    _say_unused(path, unused)
    about = f"npz, {height}x{width}, {len(names)} classes"
    variant = f"{title.partition(':')[2]} ({about})"
    dataset = Dataset(title, variant, names, train, test, test_held_out=len(pairs) == 1)
    return in_class_order(dataset, class_names)


def _arrays_of(path: Path) -> dict[str, _Array]:
    """The arrays of the file by name, in lower case."""
    found: dict[str, _Array] = {}
    with _readable(path), zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            if not member.endswith(".npy"):
                continue
            name = member.removesuffix(".npy")
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
            if name.casefold() not in found or name == name.casefold():
                found[name.casefold()] = _Array(name, shape, dtype)
    return found


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    if not path.exists():
        raise InputError(
            f"there is no file {path}; correct data.name (import_model: --data), or give its new "
            "place as data.dir (--data_dir)"
        )
    check_readable(path)
    try:
        yield
    except _DAMAGE as error:
        if code_of(error):
            raise
        reason = " ".join(str(error.args[0] if error.args else type(error).__name__).split())[:160]
        with open(path, "rb") as file:
            if file.read(6) == b"\x93NUMPY":
                raise InputError(f"{path} is a single array; write images and labels with np.savez") from error
        raise InputError(f"{path} is no npz file, or a damaged one ({reason}); write it again with np.savez") from error


def _read(path: Path, array: _Array) -> np.ndarray:
    with _readable(path), np.load(path, allow_pickle=False) as file:
        return file[array.name]


def _chosen(path: Path, arrays: dict[str, _Array]) -> tuple[list[tuple[_Array, _Array]], list[_Array]]:
    """((images, labels) of the training split and, if there is one, of the test split; unused images)."""
    for keys in _KEYS:
        whole = [pair for pair in keys if any(name in arrays for name in pair)]
        if not whole or whole[0] != keys[0]:
            continue
        for pair in whole:
            if missing := next((name for name in pair if name not in arrays), None):
                (other,) = set(pair) - {missing}
                raise InputError(f"{path} has {arrays[other].name} and no {missing}; add it")
        pairs = [(arrays[images], arrays[labels]) for images, labels in whole]
        for array in (array for pair in pairs for array in pair):
            if array.dtype.hasobject:
                raise InputError(
                    f"{path}: {array.name} holds Python objects, which are never loaded; save an array of integers"
                )
        return pairs[:2], [images for images, _ in pairs[2:]]
    there = ", ".join(array.name for array in arrays.values()) or "no array"
    raise InputError(f"{path} holds {printable(there)[:200]}; name the arrays {_WANTED}")


def _image_shape(path: Path, array: _Array) -> tuple[int, int, int, int]:
    """(n, height, width, channels) of an array of images."""
    shape, what = array.shape, f"{path}: {array.name} is {array.dtype} of shape {array.shape}"
    if array.dtype != np.uint8:
        remedy = "give uint8 with values from 0 to 255"
        if array.dtype.kind == "f":
            remedy += f", as in np.round({array.name} * 255).astype(np.uint8) for values from 0 to 1"
        raise InputError(f"{what}; {remedy}")
    if len(shape) == 4 and shape[3] not in (1, 3) and shape[1] in (1, 3):
        raise InputError(f"{what}, channels first; give channels last: {array.name}.transpose(0, 2, 3, 1)")
    if len(shape) == 3:
        shape = (*shape, 1)
    if len(shape) != 4 or shape[3] not in (1, 3) or 0 in shape:
        raise InputError(f"{what}; give (n, height, width), or (n, height, width, channels) with 1 or 3 channels")
    return shape


def _shape_read(stored: tuple[int, ...], image_size: int, channels: int) -> tuple[int, int, int]:
    height, width = (image_size, image_size) if image_size else stored[1:3]
    return height, width, channels or stored[3]


def _labels(path: Path, array: _Array, images: int) -> np.ndarray:
    """int32 `(n,)`."""
    shape, what = array.shape, f"{path}: {array.name} is {array.dtype} of shape {array.shape}"
    if len(shape) == 2 and shape[1] > 1:
        raise InputError(
            f"{what}, several values an image; give one class number for each (of one-hot labels: "
            f"{array.name}.argmax(1)); several labels an image cannot be used"
        )
    if array.dtype.kind not in "iu" or math.prod(shape) != images or shape not in ((images,), (images, 1)):
        raise InputError(f"{what}; give an integer, the class number, for each of the {images} images")
    values = _read(path, array).reshape(-1)
    if values.min() < 0 or values.max() >= 2**31 - 1:
        wrong = values.min() if values.min() < 0 else values.max()
        raise InputError(f"{path}: {array.name} has the label {wrong}; give class numbers from 0 on")
    return values.astype(np.int32)


def _class_names(path: Path, arrays: dict[str, _Array]) -> tuple[str, ...]:
    """The class names of the file; () if it has none."""
    if (array := arrays.get("class_names")) is None:
        return ()
    if array.dtype.kind not in "US" or len(array.shape) != 1:
        raise InputError(
            f"{path}: class_names is {array.dtype} of shape {array.shape}; save text, as in np.array(['cat', 'dog'])"
        )
    try:
        names = _read(path, array)
        texts = tuple(name.decode() for name in names.tolist()) if array.dtype.kind == "S" else tuple(names.tolist())
        check_class_names(texts)
    except ValueError as error:
        raise InputError(f"{path}: class_names: {error}; give each class a name that can be printed") from error
    return texts


def _check_classes(path: Path, names: list[str], labels: list[np.ndarray], given: tuple[str, ...]) -> tuple[str, ...]:
    """The class names: `given`, or the numbers. Raises `InputError` unless every class has images in each split.

    Args:
      names: names of the arrays `labels`.
    """
    present = np.unique(labels[0])
    classes = len(given) or int(present[-1]) + 1
    if present[0] == 1 and len(present) == present[-1] and len(given) in (0, len(present)):
        raise InputError(
            f"{path}: {names[0]} has the labels 1 to {present[-1]}; number the classes from 0 on: {names[0]} - 1"
        )
    for name, part in zip(names, labels, strict=True):
        found = np.unique(part)
        if found[-1] >= classes:
            what = f"{len(given)} class names" if given else f"the labels 0 to {classes - 1} in {names[0]}"
            raise InputError(f"{path}: {name} has the label {found[-1]}, but there are {what}; correct one of them")
        if len(found) < classes:
            missing = int(np.setdiff1d(np.arange(len(found) + 1), found)[0])
            called = f"{missing} ({given[missing]})" if given else missing
            raise InputError(
                f"{path}: no image of {name} has the label {called}; number the classes from 0 on without gaps "
                f"(np.unique({names[0]}, return_inverse=True)[1]), or add images of it"
            )
    if classes < 2:
        raise InputError(f"{path}: all images have the label 0; give images of two classes or more")
    return given or tuple(str(number) for number in range(classes))


def _converted(images: np.ndarray, stored: tuple[int, ...], wanted: tuple[int, int, int]) -> np.ndarray:
    """Converts `images` of the shape `stored` to uint8 `(n, *wanted)`; no copy if the shapes are equal."""
    images = images.reshape(stored)
    if stored[1:] == wanted:
        return images
    made = np.empty((len(images), *wanted), np.uint8)

    def convert(index: int) -> None:
        image = Image.fromarray(images[index].squeeze(-1) if stored[3] == 1 else images[index])
        image = image.convert("L" if wanted[2] == 1 else "RGB")
        made[index] = cut(image, wanted[0]) if stored[1:3] != wanted[:2] else np.asarray(image).reshape(wanted)

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(convert, range(len(images))):
            pass
    return made


def _say_unused(path: Path, unused: Sequence[_Array]) -> None:
    from osp_jax.runtime.distributed import is_first

    for array in unused if is_first() else ():
        print(f"{printable(str(path))}: {array.name} ({array.shape[0]} images) is not used", file=sys.stderr)
