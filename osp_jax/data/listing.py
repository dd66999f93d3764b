"""Lists the image files of a folder with one subfolder per class, in an order that is the same on every machine.

    PATH/train/CLASS/...  and  PATH/test/CLASS/...   (or val, valid, validation instead of test)
    PATH/CLASS/...                                   without a test split

Images may be nested deeper in the folder of their class. Files are recognised by their suffix, in any case, or by their
first bytes if they have none; hidden files and files next to the class folders are skipped.
"""

import os
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from osp_jax.data.class_names import check_class_names
from osp_jax.runtime.errors import InputError, shown

TRAIN, TEST = ("train", "training"), ("test", "testing", "val", "valid", "validation")
_SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
}
_OTHER_IMAGES = {  # formats that raise an error instead of being skipped
    *(".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl", ".svg", ".dcm", ".tga", ".ico", ".psd", ".eps", ".raw"),
    *(".cr2", ".nef", ".arw", ".dng", ".exr", ".hdr"),
}
_FIRST_BYTES = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*")
_PASSED_OVER = {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "lost+found", "$recycle.bin"}


@dataclass(frozen=True)
class ClassFolders:
    """`files`: the image files of each class, sorted; the classes are sorted by name."""

    root: Path
    files: dict[str, list[str]]

    @property
    def count(self) -> int:
        return sum(map(len, self.files.values()))


@dataclass(frozen=True)
class Listing:
    """A data set in folders; `notes` describe unused files."""

    train: ClassFolders
    test: ClassFolders | None
    notes: tuple[str, ...]


def list_images(place: Path) -> Listing:
    """Lists the images of the folder `place`.

    Raises:
      InputError: there is no such folder, it cannot be read, it has no classes, a class has no images, or train and
        test have different classes.
    """
    top = _folders(place)
    train = _training_folder(place, top)
    if train is None:
        found, notes = _classes(place)
        return Listing(found, None, notes)
    found, notes = _classes(train)
    tests = [Path(top[name]) for name in TEST if name in top]
    labelled = [path for path in tests if _folders(path)]
    notes += tuple(
        f"{path} is not used: it has no folders of classes"
        if path not in labelled
        else f"{path} is not used: the test images are those of {labelled[0]}"
        for path in tests
        if path not in labelled[:1]
    )
    if not labelled:
        return Listing(found, None, notes)
    test, of_test = _classes(labelled[0])
    _check_same_classes(found, test)
    return Listing(found, test, notes + of_test)


def _training_folder(place: Path, top: dict[str, str]) -> Path | None:
    """The folder 'train' of a set that has one; None if the folders of `place` are classes, even if one is 'train'."""
    name = next((name for name in TRAIN if name in top), None)
    others = sorted(set(top) - {*TRAIN, *TEST})
    if name is None:
        if top and not others:
            raise InputError(f"{place} has {shown(Path(next(iter(top.values()))).name)}, but no folder 'train'; add it")
        return None
    if not _folders(Path(top[name])):
        return None if others else Path(top[name])
    if others and not set(top) & set(TEST):
        raise InputError(
            f"{top[name]} holds folders, and next to it are {shown(others[0])} and no test folder; give "
            f"folder:{top[name]} if its folders are the classes, or rename it if it is a class"
        )
    return Path(top[name])


def _classes(root: Path) -> tuple[ClassFolders, tuple[str, ...]]:
    folders, files, skipped = _folders(root, exact=True), {}, []
    names = {unicodedata.normalize("NFC", name): path for name, path in folders.items()}
    if not names:
        raise InputError(
            f"{root} has no folder for a class; put the images of each class into a folder of its own, as in "
            f"{root / 'cat'} and {root / 'dog'}"
        )
    try:
        check_class_names(sorted(names))
    except ValueError as error:
        raise InputError(f"{root}: {error}; rename the folder") from error
    if len(names) < len(folders):
        raise InputError(f"{root} has two folders whose names look the same; rename or merge them")
    same = Counter(name.casefold() for name in names)
    if twice := sorted((name for name in names if same[name.casefold()] > 1), key=str.casefold):
        raise InputError(f"{root} has the classes {twice[0]!r} and {twice[1]!r}, the same up to case; rename or merge")
    for name in sorted(names):
        files[name], others = _images(names[name])
        skipped += others
        if not files[name]:
            about = f" ({len(others)} other files, such as {shown(Path(others[0]).name)})" if others else ""
            raise InputError(
                f"the class folder {shown(names[name], 300)} holds no images{about}; add some or delete it"
            )
    if len(names) == 1:
        (only,) = names.values()
        deeper = _folders(Path(only))
        remedy = f"is it folder:{only}?" if len(deeper) > 1 else "give images of two classes or more"
        raise InputError(f"{root} has one class only, {next(iter(names))!r}; {remedy}")
    beside = [entry.path for entry in _entries(str(root)) if not _is_folder(entry) and _suffix(entry) in _SUFFIXES]
    about = (skipped, "files in class folders that are no images"), (beside, "images beside the class folders")
    notes = (f"{root}: not read: {what} ({len(some)}, such as {shown(some[0], 300)})" for some, what in about if some)
    return ClassFolders(root, files), tuple(notes)


def _folders(place: Path, exact: bool = False) -> dict[str, str]:
    """The path of each visible folder in `place` by its name, in lower case unless `exact`."""
    return {
        entry.name if exact else entry.name.casefold(): entry.path
        for entry in _entries(str(place))
        if _is_folder(entry)
    }


def _images(folder: str) -> tuple[list[str], list[str]]:
    """(image files, other files) of a folder and its subfolders, sorted by relative path."""
    images, others, open_ = [], [], [(folder, (_identity(folder),))]
    while open_:
        here, above = open_.pop()
        for entry in _entries(here):
            if _is_folder(entry):
                if (identity := _identity(entry.path)) in above:
                    raise InputError(f"{shown(entry.path, 300)} is a link to a folder that it lies in; delete it")
                open_.append((entry.path, (*above, identity)))
            elif entry.is_symlink() and not os.path.exists(entry.path):
                raise InputError(f"{shown(entry.path, 300)} is a link to nothing; delete or correct it")
            else:
                (images if _is_image(entry) else others).append(entry.path)
    return sorted(images, key=lambda path: os.path.relpath(path, folder).split(os.sep)), sorted(others)


def _entries(folder: str) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not _is_skipped(entry.name)]
    except FileNotFoundError as error:
        raise InputError(
            f"there is no folder {shown(folder, 300)}; correct data.name (import_model: --data), or give its "
            "new place as data.dir (--data_dir)"
        ) from error
    except OSError as error:
        raise InputError(f"the folder {shown(folder, 300)} cannot be read ({error.strerror}); correct it") from error
    return sorted(found, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_skipped(name: str) -> bool:
    return name.startswith(".") or name.casefold() in _PASSED_OVER


def _identity(path: str) -> tuple[int, int]:
    about = os.stat(path)
    return about.st_dev, about.st_ino


def _suffix(entry: os.DirEntry) -> str:
    return os.path.splitext(entry.name)[1].lower()


def _is_image(entry: os.DirEntry) -> bool:
    suffix = _suffix(entry)
    if suffix in _OTHER_IMAGES:
        raise InputError(
            f"{shown(entry.path, 300)} is of a format that cannot be read; convert it to JPEG or PNG, or delete it"
        )
    if suffix or not entry.is_file():
        return suffix in _SUFFIXES
    try:
        with open(entry.path, "rb") as file:
            first = file.read(12)
    except OSError:
        return False
    return first.startswith(_FIRST_BYTES) or (first[:4] == b"RIFF" and first[8:] == b"WEBP")


def _check_same_classes(train: ClassFolders, test: ClassFolders) -> None:
    if unknown := sorted(test.files.keys() - train.files.keys()):
        raise InputError(
            f"{test.root} has the class {unknown[0]!r}, which {train.root} lacks; add it there or delete it"
        )
    if missing := sorted(train.files.keys() - test.files.keys()):
        raise InputError(f"{test.root} lacks the class {missing[0]!r}, which {train.root} has; add some images of it")
