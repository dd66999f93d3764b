"""A user's images in folders, one subfolder per class (`data.listing`), in memory or left in their files."""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from osp_jax.data.dataset import Dataset, Split
from osp_jax.data.image_files import Header, read_header, read_image
from osp_jax.data.listing import ClassFolders, list_images
from osp_jax.data.memory import image_bytes, require_memory
from osp_jax.data.splits import cut_test
from osp_jax.data.stored import StoredImages, cut
from osp_jax.runtime.errors import InputError, printable, shown
from osp_jax.runtime.settings import MOST_PIXELS

_AT_A_TIME = 64  # consecutive images per thread


def load_image_folder(
    place: Path,
    title: str,
    *,
    image_size: int = 0,
    channels: int = 0,
    stream: bool = False,
    validation: float = 0.0,
) -> Dataset:
    """Loads the images of the folder `place`; classes are sorted by name.

    Args:
      title: name of the data in records and reports.
      image_size: resizes the central square to this side, in pixels; 0 keeps the stored images.
      channels: 1 or 3 converts the images; 0 gives 1 if all are stored in greyscale, else 3.
      stream: whether to return `StoredImages`, which are read when indexed; needs `image_size`.
      validation: the share of each class that becomes the test split if there is none.

    Raises:
      InputError: as `list_images`; there is no test split and `validation` is 0; an image is damaged or has another
        size; or the images exceed the memory.
    """
    if stream and not image_size:
        raise InputError("data.stream needs images of one size; give data.image_size, such as 224")
    listing = list_images(place)
    parts = [_paths_and_labels(part) for part in (listing.train, listing.test) if part]
    if listing.test is None:
        paths, labels = parts[0]
        train, test = cut_test(labels, validation, str(listing.train.root), tuple(listing.train.files))
        parts = [([paths[i] for i in chosen], labels[chosen]) for chosen in (train, test)]
    every = [path for paths, _ in parts for path in paths]
    notes = listing.notes
    first = read_header(every[0])
    if stream and channels:
        formats = first.format
    else:
        headers = _in_threads(read_header, every)
        if not image_size:
            _check_sizes(every, headers)
        channels = channels or (1 if all(header.grey for header in headers) else 3)
        formats = " and ".join(sorted({header.format for header in headers}))
        if deep := sum(header.deep for header in headers):
            notes += (f"{place}: {deep} images of 16 bits a pixel are scaled to 8 bits (divided by 256)",)
    height, width = (image_size, image_size) if image_size else (first.height, first.width)
    if max(height, width) > MOST_PIXELS:
        raise InputError(
            f"images of {place} have {height}x{width} pixels; set data.image_size (import_model: --image_size) to a "
            "smaller size, such as 224"
        )
    _say(notes)
    if not stream:
        require_memory(
            image_bytes(len(every), height, width, channels),
            f"the {len(every)} images of {place} at {height}x{width} pixels",
            "lower data.image_size or use data.stream",
        )
    read = _stored if stream else _decoded
    train, test = (Split(read(paths, (height, width, channels), image_size, place), labels) for paths, labels in parts)
    about = f"{formats}, {height}x{width}, {len(listing.train.files)} classes"
    return Dataset(
        name=title,
        variant=f"{title.replace(':', ' ', 1)} ({about})",
        class_names=tuple(listing.train.files),
        train=train,
        test=test,
        test_held_out=listing.test is None,
    )


def _paths_and_labels(folders: ClassFolders) -> tuple[list[str], np.ndarray]:
    paths = [path for files in folders.files.values() for path in files]
    counts = [len(files) for files in folders.files.values()]
    return paths, np.repeat(np.arange(len(counts), dtype=np.int32), counts)


def _check_sizes(paths: Sequence[str], headers: Sequence[Header]) -> None:
    """Raises `InputError`, which names an image of the most frequent size and one of another."""
    sizes = [(header.height, header.width) for header in headers]
    counts = Counter(sizes)
    if len(counts) == 1:
        return
    usual = counts.most_common(1)[0][0]
    other = next(i for i, size in enumerate(sizes) if size != usual)
    shapes = " and ".join(
        f"{size[0]}x{size[1]} ({shown(paths[i], 200)})"
        for i, size in ((sizes.index(usual), usual), (other, sizes[other]))
    )
    raise InputError(
        f"images differ in size: {shapes}; set data.image_size (import_model: --image_size) to "
        "the pixels a side you want, such as 224"
    )


def _decoded(paths: Sequence[str], shape: tuple[int, int, int], image_size: int, place: Path) -> np.ndarray:
    images = np.empty((len(paths), *shape), np.uint8)

    def read(index: int) -> None:
        image = read_image(paths[index], shape[-1])
        if not image_size and image.size != (shape[1], shape[0]):
            raise InputError(f"{shown(paths[index], 300)} was changed while it was read; run the command again")
        images[index] = cut(image, image_size) if image_size else np.asarray(image).reshape(shape)

    _in_threads(read, range(len(paths)))
    return images


def _stored(paths: Sequence[str], shape: tuple[int, int, int], image_size: int, place: Path) -> StoredImages:
    def open_image(index: int) -> Image.Image:
        return read_image(paths[index], shape[-1])

    return StoredImages(open_image, len(paths), image_size, shape[-1], place)


def _in_threads(work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """Maps `work` over `items` in threads, since Pillow releases the GIL; raises the first failure, in order."""

    def some(start: int) -> list[Any]:
        return [work(item) for item in items[start : start + _AT_A_TIME]]

    with ThreadPoolExecutor() as pool:
        try:
            return list(chain.from_iterable(pool.map(some, range(0, len(items), _AT_A_TIME))))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _say(notes: Sequence[str]) -> None:
    from osp_jax.runtime.distributed import is_first

    if is_first():
        for note in notes:
            print(printable(note), file=sys.stderr)
