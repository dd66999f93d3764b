"""Preparing data sets without TensorFlow, on small archives in the official formats, without a network."""

import dataclasses
import functools
import gzip
import hashlib
import http.server
import io
import json
import os
import pickle
import re
import socket
import subprocess
import sys
import tarfile
import threading
import time
import types
import urllib.error
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from osp_jax.data import archives as reading
from osp_jax.data import download
from osp_jax.data import prepare as module
from osp_jax.data.prepare import OFFICIAL
from osp_jax.runtime.errors import InputError
from tests.data import small_archives as archives

ROOT = Path(module.__file__).parents[2]
prepare = functools.partial(module.prepare, accept_unknown_archive=True)  # the archives of these tests are small ones


def point_to(monkeypatch, name: str, url: str, **changes) -> None:
    monkeypatch.setitem(OFFICIAL, name, dataclasses.replace(OFFICIAL[name], url=url, **changes))


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def served(tmp_path):
    """A folder, and the address at which it is served."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    handler.func.log_message = lambda *args: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def read(name: str, split: str, data_dir: Path, **kwargs) -> dict[bytes, dict]:
    source = tfds.data_source(name, split=split, data_dir=data_dir, download=False, **kwargs)
    return {example["id"]: example for example in source}


def assert_does_not_read(name: str, data_dir: Path) -> None:
    with pytest.raises((AssertionError, NotImplementedError, tfds.core.DatasetNotFoundError)):
        tfds.data_source(name, split="train", data_dir=data_dir, download=False)


def assert_nothing_is_left(name: str, data_dir: Path) -> None:
    assert not list((data_dir / name).glob("*"))
    assert not list(data_dir.glob(".osp_jax_preparing*")) or not (data_dir / name).exists()
    assert_does_not_read(name, data_dir)


# Reading what was prepared.


def test_a_prepared_cifar10_reads_pixel_by_pixel_with_stock_tfds(tmp_path):
    archive, labels, images = archives.cifar10(tmp_path)
    folder = prepare("cifar10", tmp_path, archive)
    assert folder == tmp_path / "cifar10" / "3.0.2"
    train, test = read("cifar10", "train", tmp_path), read("cifar10", "test", tmp_path)
    assert (len(train), len(test)) == (20, 4)
    assert sorted(train)[:2] == [b"train_00000", b"train_00001"]
    examples = [train[key] for key in sorted(train)] + [test[key] for key in sorted(test)]
    np.testing.assert_array_equal([e["image"] for e in examples], images)
    np.testing.assert_array_equal([e["label"] for e in examples], labels[:, 0])


def test_a_prepared_cifar100_has_both_labels_in_their_places(tmp_path):
    archive, labels, images = archives.cifar100(tmp_path)
    prepare("cifar100", tmp_path, archive)
    train, test = read("cifar100", "train", tmp_path), read("cifar100", "test", tmp_path)
    assert len(train) == 6
    assert sorted(test) == [b"test_00000", b"test_00001", b"test_00002"]
    examples = [train[key] for key in sorted(train)] + [test[key] for key in sorted(test)]
    np.testing.assert_array_equal([e["image"] for e in examples], images)
    np.testing.assert_array_equal([(e["coarse_label"], e["label"]) for e in examples], labels)
    features = tfds.builder("cifar100", data_dir=tmp_path).info.features
    assert features["label"].names == archives.FINE_NAMES
    assert features["coarse_label"].names == archives.COARSE_NAMES


def test_tiny_imagenet_keeps_the_jpeg_bytes(tmp_path):
    members = archives.tiny_imagenet_members()
    prepare("tiny_imagenet", tmp_path, archives.zip_file(tmp_path / "tiny-imagenet-200.zip", members))
    skip = {"image": tfds.decode.SkipDecoding()}
    train = read("tiny_imagenet", "train", tmp_path, decoders=skip)
    validation = read("tiny_imagenet", "validation", tmp_path, decoders=skip)
    assert (len(train), len(validation)) == (6, 3)
    names = tfds.builder("tiny_imagenet", data_dir=tmp_path).info.features["label"].names
    assert names == sorted(archives.WNIDS)
    for key, example in {**train, **validation}.items():
        wnid, file = key.decode().split("/")
        place = f"train/{wnid}/images" if example in train.values() else "val/images"
        assert example["image"] == members[f"tiny-imagenet-200/{place}/{file}"]
        assert names[example["label"]] == wnid
    assert validation[b"n02000000/val_2.JPEG"]["label"] == 1


def test_tiny_imagenet_decodes_to_colour_also_where_it_is_grey(tmp_path):
    archive = archives.zip_file(tmp_path / "tiny-imagenet-200.zip", archives.tiny_imagenet_members())
    folder = prepare("tiny_imagenet", tmp_path, archive)
    images = [example["image"] for example in read("tiny_imagenet", "validation", tmp_path).values()]
    assert {image.shape for image in images} == {(64, 64, 3)}
    image = json.loads((folder / "features.json").read_text())["featuresDict"]["features"]["image"]["image"]
    assert image == {"dtype": "uint8", "encodingFormat": "jpeg", "shape": {"dimensions": ["64", "64", "3"]}}


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_version_and_features_are_those_of_tfds(name, tmp_path):
    folder = prepare(name, tmp_path, getattr(archives, name)(tmp_path)[0])
    stock = tfds.builder(name, data_dir=tmp_path / "elsewhere")
    ours = tfds.builder_from_directory(folder)
    assert ours.info.full_name == stock.info.full_name
    assert ours.info.features.to_json() == stock.info.features.to_json()
    assert ours.info.supervised_keys == stock.info.supervised_keys
    ((url, info),) = stock.url_infos.items()
    assert (OFFICIAL[name].url, OFFICIAL[name].sha256, OFFICIAL[name].size) == (url, info.checksum, int(info.size))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_tfds_itself_writes_the_same_records_in_the_same_order(name, tmp_path, monkeypatch):
    """TFDS's own builder, with only its two calls of TensorFlow replaced: unpacking, and reading records."""
    from tensorflow_datasets.image_classification import cifar

    archive, *_ = getattr(archives, name)(tmp_path)

    def load(path, labels_number):
        for record in np.fromfile(path, np.uint8).reshape(-1, labels_number + 3072):
            image = record[labels_number:].reshape(3, 32, 32).transpose(1, 2, 0)
            yield record[:labels_number], Image.fromarray(np.ascontiguousarray(image))

    monkeypatch.setattr(cifar, "_load_data", load)
    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", lambda *_: str(tmp_path / "unpacked"))
    archives.unpack(archive, tmp_path / "unpacked")
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    tfds.builder(name, data_dir=theirs).download_and_prepare(file_format="array_record")
    prepare(name, ours, archive)
    files = {path.relative_to(theirs) for path in (theirs / name).rglob("*") if path.is_file()}
    assert files == {path.relative_to(ours) for path in (ours / name).rglob("*") if path.is_file()}
    for file in files:
        if file.suffix == ".txt" or file.name == "features.json":
            assert (theirs / file).read_bytes() == (ours / file).read_bytes()
    for split in ("train", "test"):
        mine, stock = read(name, split, ours), read(name, split, theirs)
        assert list(mine) == list(stock)
        for key in mine:
            np.testing.assert_equal(mine[key], stock[key])


def test_a_second_preparation_does_nothing(tmp_path, monkeypatch):
    archive, *_ = archives.cifar10(tmp_path)
    folder = prepare("cifar10", tmp_path, archive)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    archive.unlink()
    monkeypatch.setattr(module, "_write", lambda *_: pytest.fail("written again"))
    assert prepare("cifar10", tmp_path) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


# Archives that cannot be used.


def damaged_archives(tmp_path: Path):
    archive, *_ = archives.cifar10(tmp_path)
    good = archives.unpack(archive, tmp_path / "unpacked")
    batch = "cifar-10-batches-bin/data_batch_3.bin"
    meta = "cifar-10-batches-bin/batches.meta.txt"

    def tar(**changes):
        members = {**good, **{{"batch": batch, "meta": meta}[key]: data for key, data in changes.items()}}
        return archives.tar_gz(tmp_path / "x.tar.gz", {k: v for k, v in members.items() if v is not None}).read_bytes()

    whole = archive.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    return {
        "truncated": whole[: len(whole) // 2],
        "flipped bits": bytes(flipped),
        "not an archive": b"<html>404 not found</html>",
        "empty": b"",
        "a batch missing": tar(batch=None),
        "a batch cut off": tar(batch=good[batch][:-1]),
        "an empty batch": tar(batch=b""),
        "a label out of range": tar(batch=b"\x0a" + good[batch][1:]),
        "class names missing": tar(meta=None),
        "too few class names": tar(meta=b"cat\ndog\n"),
        "the Python version": archives.tar_gz(tmp_path / "x", {"cifar-10-batches-py/data_batch_1": b"."}).read_bytes(),
    }


def test_a_damaged_cifar_archive_is_refused_and_leaves_nothing(tmp_path):
    for what, data in damaged_archives(tmp_path).items():
        path = tmp_path / f"{what}.tar.gz"
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"is not a whole cifar-10-binary.tar.gz .*; get it from https") as caught:
            prepare("cifar10", tmp_path / "data", path)
        assert "\n" not in str(caught.value)
        assert_nothing_is_left("cifar10", tmp_path / "data")


@pytest.mark.parametrize(
    ("member", "data"),
    [
        ("wnids.txt", None),
        ("val/val_annotations.txt", None),
        ("val/val_annotations.txt", b""),
        ("val/val_annotations.txt", b"val_0.JPEG n03000000\n"),
        ("val/images/val_1.JPEG", None),
        ("train/n03000000/images/n03000000_0.JPEG", b"no image"),
        ("train/n03000000/images/n03000000_0.JPEG", archives.jpeg(0, size=32)),
        ("wnids.txt", b"n03000000\n"),
        ("wnids.txt", b""),
    ],
)
def test_a_damaged_tiny_imagenet_archive_is_refused_and_leaves_nothing(member, data, tmp_path):
    members = {**archives.tiny_imagenet_members(), f"tiny-imagenet-200/{member}": data}
    path = archives.zip_file(tmp_path / "x.zip", {k: v for k, v in members.items() if v is not None})
    with pytest.raises(InputError, match=r"x.zip is not a whole tiny-imagenet-200.zip \(.+\); get it from http"):
        prepare("tiny_imagenet", tmp_path / "data", path)
    assert_nothing_is_left("tiny_imagenet", tmp_path / "data")


def test_a_truncated_zip_is_refused(tmp_path):
    path = archives.zip_file(tmp_path / "x.zip", archives.tiny_imagenet_members())
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match="File is not a zip file"):
        prepare("tiny_imagenet", tmp_path / "data", path)


def test_an_archive_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.tar\.gz is not a file"):
        prepare("cifar10", tmp_path, tmp_path / "nowhere.tar.gz")


def test_an_archive_other_than_the_published_one_is_refused_unless_it_is_accepted(tmp_path, capsys):
    archive, *_ = archives.cifar10(tmp_path)
    with pytest.raises(InputError, match=r"sha256 differs: .*; get it from https.* or pass --accept_unknown_archive"):
        module.prepare("cifar10", tmp_path, archive)
    assert_nothing_is_left("cifar10", tmp_path)
    prepare("cifar10", tmp_path, archive)
    assert "sha256 differs" in capsys.readouterr().err


def test_an_archive_put_by_hand_into_downloads_is_checked_too(tmp_path):
    (tmp_path / "downloads").mkdir()
    archives.cifar10(tmp_path / "downloads")
    with pytest.raises(InputError, match="sha256 differs"):
        module.prepare("cifar10", tmp_path)


class Payload:
    """A pickle that leaves a mark where it is loaded."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def tar_of(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for info, data in members:
            info.size = info.size or len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def info_of(name: str, **fields) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


FOLDER = "cifar-10-batches-bin"


@pytest.mark.parametrize(
    ("name", "fields", "size", "reason"),
    [
        (f"{FOLDER}/data_batch_1.bin", {}, 0, "is there twice"),
        (f"./{FOLDER}//data_batch_1.bin", {}, 0, "is there twice"),
        (f"{FOLDER}/batches.meta.txt", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, 0, "link or a device"),
        (f"{FOLDER}/data_batch_9.bin", {"type": tarfile.LNKTYPE, "linkname": "x"}, 0, "is a link or a device"),
        (f"{FOLDER}/data_batch_9.bin", {"type": tarfile.CHRTYPE}, 0, "is a link or a device"),
        (f"{FOLDER}/data_batch_9.bin", {"type": tarfile.FIFOTYPE}, 0, "is a link or a device"),
        ("../outside", {}, 0, "leads out of the archive"),
        (f"{FOLDER}/../../outside", {}, 0, "leads out of the archive"),
        ("/etc/passwd", {}, 0, "leads out of the archive"),
        (f"{FOLDER}/extra.txt", {}, 100, "more than the data set can hold"),
        ("elsewhere/zeros", {}, 1 << 20, "more than the data set can hold"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_member_that_does_not_belong_into_the_archive_is_refused(name, fields, size, reason, tmp_path, monkeypatch):
    archive, *_ = archives.cifar10(tmp_path)
    good = [(info_of(name), content) for name, content in archives.unpack(archive, tmp_path / "unpacked").items()]
    monkeypatch.setattr(reading, "_TEXT", 90)
    monkeypatch.setattr(reading, "_CIFAR_IMAGES", 100)  # at most 307,300 bytes of records
    path = tar_of(tmp_path / "x.tar.gz", [*good, (info_of(name, **fields), bytes(size))])
    with pytest.raises(InputError, match=rf"is not a whole cifar-10-binary.tar.gz \(.*{reason}"):
        prepare("cifar10", tmp_path / "data", path)
    assert_nothing_is_left("cifar10", tmp_path / "data")


def test_a_sparse_member_of_a_terabyte_takes_no_memory(tmp_path):
    # The header of GNU's old sparse format: one block of nothing, and a real size far above the stored one.
    info = info_of(f"{FOLDER}/data_batch_1.bin", type=tarfile.GNUTYPE_SPARSE)
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"%011o\0" % (1 << 32)
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:512]) + 8 * 32)
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(bytes(header) + bytes(1024)))
    with pytest.raises(InputError, match="4294967296 bytes, more than the data set can hold"):
        prepare("cifar10", tmp_path / "data", tmp_path / "x.tar.gz")


def test_class_names_of_an_archive_are_checked(tmp_path):
    archive, *_ = archives.cifar10(tmp_path)
    good = archives.unpack(archive, tmp_path / "unpacked")
    for names, reason in (("a b c d e f g h i i", "same name"), ("a b c d e f g h i \33[2J", "cannot be printed")):
        members = good | {f"{FOLDER}/batches.meta.txt": names.encode()}
        with pytest.raises(InputError, match=reason) as caught:
            prepare("cifar10", tmp_path / "data", archives.tar_gz(tmp_path / "x.tar.gz", members))
        assert str(caught.value).isprintable()


def test_the_archive_of_another_data_set_is_refused(tmp_path):
    archive, *_ = archives.cifar100(tmp_path)
    with pytest.raises(InputError, match=r"data_batch_1\.bin is missing"):
        prepare("cifar10", tmp_path / "data", archive)
    with pytest.raises(InputError, match="not a zip file"):
        prepare("tiny_imagenet", tmp_path / "data", archive)


def test_a_pickle_in_an_archive_is_not_loaded(tmp_path):
    mark = tmp_path / "loaded"
    data = pickle.dumps(Payload(mark))
    pickle.loads(data)
    assert mark.exists()  # so it would leave its mark
    mark.unlink()
    members = {f"{folder}/data_batch_{i}": data for folder in ("cifar-10-batches-py", FOLDER) for i in range(1, 6)}
    members |= {f"{FOLDER}/data_batch_{i}.bin": data for i in range(1, 6)}
    with pytest.raises(InputError, match="is not a whole"):
        prepare("cifar10", tmp_path / "data", archives.tar_gz(tmp_path / "x.tar.gz", members))
    assert not mark.exists()


def test_no_module_loads_pickles():
    for path in [*(ROOT / "osp_jax").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^\s*(import|from) (pickle|dill|cloudpickle|joblib|shelve|marshal)", text, re.M), path
        assert "allow_pickle=True" not in text, path


def zip_of(path: Path, changes) -> Path:
    """A small Tiny ImageNet, of which `changes(archive)` writes the last members."""
    archives.zip_file(path, archives.tiny_imagenet_members())
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that is there twice
        changes(archive)
    return path


TRAIN = "tiny-imagenet-200/train/n03000000/images"


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        (f"{TRAIN}/n03000000_0.JPEG", archives.jpeg(0), "is there twice"),
        ("../outside", b"", "leads out of the archive"),
        ("/outside", b"", "leads out of the archive"),
        (f"{TRAIN}/bomb.JPEG", bytes(1 << 20), "1048576 bytes, more than the data set can hold"),
    ],
    ids=["twice", "up", "absolute", "bomb"],
)
def test_a_member_that_does_not_belong_into_a_zip_is_refused(name, data, reason, tmp_path):
    path = zip_of(tmp_path / "x.zip", lambda archive: archive.writestr(name, data))
    with pytest.raises(InputError, match=rf"x.zip is not a whole tiny-imagenet-200.zip \(.*{reason}"):
        prepare("tiny_imagenet", tmp_path / "data", path)
    assert_nothing_is_left("tiny_imagenet", tmp_path / "data")


def test_a_zip_of_too_much_is_refused(tmp_path, monkeypatch):
    path = zip_of(tmp_path / "x.zip", lambda archive: None)
    monkeypatch.setattr(reading, "_TINY_TOTAL", 1000)
    with pytest.raises(InputError, match="unpacks to more than the data set can hold"):
        prepare("tiny_imagenet", tmp_path / "data", path)
    monkeypatch.setattr(reading, "_TINY_MEMBERS", 5)
    with pytest.raises(InputError, match="members, more than the data set can hold"):
        prepare("tiny_imagenet", tmp_path / "data", path)


@pytest.mark.parametrize(("bits", "reason"), [(1, "is encrypted"), (1 << 6 | 1, "is encrypted")])
def test_an_encrypted_member_is_named(bits, reason, tmp_path):
    path = zip_of(tmp_path / "x.zip", lambda archive: None)
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\1\2")  # the first entry of the directory; its flags stand 8 bytes on
    data[entry + 8] |= bits
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match=rf"wnids.txt {reason}"):
        prepare("tiny_imagenet", tmp_path / "data", path)


def test_class_names_and_images_of_tiny_imagenet_are_there_once(tmp_path):
    members = archives.tiny_imagenet_members()
    wnids, rows = "tiny-imagenet-200/wnids.txt", "tiny-imagenet-200/val/val_annotations.txt"
    for member, reason in ((wnids, "same name"), (rows, "names an image twice")):
        path = archives.zip_file(tmp_path / "x.zip", members | {member: 2 * members[member]})
        with pytest.raises(InputError, match=reason):
            prepare("tiny_imagenet", tmp_path / "data", path)


@pytest.mark.parametrize("name", ["cifar10", "tiny_imagenet"])
def test_whatever_bytes_are_changed_an_archive_is_read_or_refused_in_one_line(name, tmp_path):
    if name == "cifar10":
        path, *_ = archives.cifar10(tmp_path)
        whole = gzip.decompress(path.read_bytes())
    else:
        path = archives.zip_file(tmp_path / "x.zip", archives.tiny_imagenet_members())
        whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        data = np.frombuffer(whole, np.uint8).copy()
        places = rng.integers(0, len(data), 3) if rng.random() < 0.5 else rng.integers(-3000, 0, 3)
        data[places] = rng.integers(0, 256, 3)
        changed = data.tobytes()[: rng.integers(len(data) // 2, 2 * len(data))]
        path.write_bytes(gzip.compress(changed, 1) if name == "cifar10" else changed)
        try:
            reading.read_archive(name, path)
        except InputError as error:
            assert str(error).isprintable()  # noqa: PT017


@pytest.mark.parametrize(
    "given",
    ["", "\0", "a\0b", "~nobody_of_this_name/x", "x" * 5000, "\udcff" * 5000],
    ids=["empty", "NUL", "with NUL", "unknown home", "too long", "not UTF-8"],
)
def test_a_path_that_can_be_none_is_refused(given, tmp_path):
    with pytest.raises(InputError, match=r"--archive"):
        prepare("cifar10", tmp_path, given)
    with pytest.raises(InputError, match="the data folder"):
        prepare("cifar10", given)


def test_an_archive_that_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(InputError, match=r"is not a file|is a folder; give a file"):
            prepare("cifar10", tmp_path, path)
    (tmp_path / "downloads").mkdir(exist_ok=True)
    (tmp_path / "pipe").rename(tmp_path / "downloads" / "cifar-10-binary.tar.gz")
    with pytest.raises(InputError, match="is not a file; move it away"):
        prepare("cifar10", tmp_path)


def test_another_version_is_named_instead_of_a_download(tmp_path, monkeypatch):
    monkeypatch.setattr(download.urllib.request, "urlopen", lambda *_, **__: pytest.fail("asked the network"))
    prepare("cifar10", tmp_path, archives.cifar10(tmp_path)[0]).rename(tmp_path / "cifar10" / "3.0.1")
    with pytest.raises(InputError, match=r"holds version 3.0.1, but 3.0.2 is needed"):
        prepare("cifar10", tmp_path)
    assert not (tmp_path / "downloads" / "cifar-10-binary.tar.gz").exists()


def test_a_lock_that_nobody_gives_back_is_not_waited_for_in_silence(tmp_path, monkeypatch, capsys):
    (tmp_path / "downloads").mkdir()
    monkeypatch.setattr(module, "_WAIT_SECONDS", 0.01)
    with module._lock(tmp_path / "downloads" / ".cifar10.lock", "cifar10") as locked:
        assert locked
        with pytest.raises(InputError, match="another process has been preparing cifar10"):
            prepare("cifar10", tmp_path, archives.cifar10(tmp_path)[0])
    assert "waiting for another process that prepares cifar10" in capsys.readouterr().err


# Half-made folders.


def test_a_killed_preparation_leaves_nothing_that_reads_as_prepared(tmp_path):
    archive, *_ = archives.cifar10(tmp_path)
    kill = f"""
import os
from osp_jax.data import archives, prepare
archives._png = lambda image: os.kill(os.getpid(), 9)
prepare.prepare("cifar10", {str(tmp_path)!r}, {str(archive)!r}, accept_unknown_archive=True)"""
    assert subprocess.run([sys.executable, "-c", kill], check=False, cwd=ROOT, capture_output=True).returncode == -9
    (leftover,) = tmp_path.glob(".osp_jax_preparing.cifar10.*")
    assert_nothing_is_left("cifar10", tmp_path)
    folder = prepare("cifar10", tmp_path, archive)
    assert list((tmp_path / "cifar10").iterdir()) == [folder]
    assert not leftover.exists()


def test_what_others_left_is_not_removed(tmp_path):
    theirs = tmp_path / "cifar10" / "incomplete.AB12CD_3.0.2", tmp_path / ".osp_jax_preparing.cifar100.x"
    for folder in theirs:
        folder.mkdir(parents=True)
    prepare("cifar10", tmp_path, archives.cifar10(tmp_path)[0])
    assert all(folder.is_dir() for folder in theirs)


def test_a_failure_while_writing_is_cleaned_up(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_png", lambda image: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare("cifar10", tmp_path, archives.cifar10(tmp_path)[0])
    assert_nothing_is_left("cifar10", tmp_path)


def test_a_disk_error_comes_out_as_what_it_is(tmp_path, monkeypatch):
    def full(image):
        raise RuntimeError("Failed to finalize writing: write() failed: No space left on device; at byte 614400")

    monkeypatch.setattr(reading, "_png", full)
    with pytest.raises(OSError, match="No space left") as caught:
        prepare("cifar10", tmp_path, archives.cifar10(tmp_path)[0])
    assert caught.value.filename == str(tmp_path)
    assert_nothing_is_left("cifar10", tmp_path)


def test_a_full_disk_is_noticed_before_starting(tmp_path, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=9))
    with pytest.raises(InputError, match="0 MiB free, about 486 MiB are needed"):
        prepare("cifar10", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"), [(None, "not a whole TFDS folder"), ("{}", "tfrecord, which only Tensor")]
)
def test_a_folder_that_cannot_be_read_is_not_taken_for_prepared(content, message, tmp_path):
    folder = tmp_path / "cifar10" / "3.0.2"
    folder.mkdir(parents=True)
    if content:
        (folder / "dataset_info.json").write_text(content)
    with pytest.raises(InputError, match=message):
        prepare("cifar10", tmp_path)


# Downloads.


def test_an_archive_put_by_hand_into_downloads_is_used(tmp_path):
    (tmp_path / "downloads").mkdir()
    archives.cifar10(tmp_path / "downloads")
    prepare("cifar10", tmp_path)
    assert len(read("cifar10", "train", tmp_path)) == 20


def test_a_download_is_checked_and_kept(tmp_path, monkeypatch, served):
    folder, address = served
    archive, *_ = archives.cifar10(folder)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    point_to(monkeypatch, "cifar10", f"{address}/{archive.name}", sha256=digest)
    prepare("cifar10", tmp_path)
    assert (tmp_path / "downloads" / archive.name).read_bytes() == archive.read_bytes()
    assert len(read("cifar10", "train", tmp_path)) == 20


def test_a_download_with_another_checksum_is_refused_and_removed(tmp_path, monkeypatch, served):
    folder, address = served
    archive, *_ = archives.cifar10(folder)
    point_to(monkeypatch, "cifar10", f"{address}/{archive.name}")
    with pytest.raises(InputError, match="sha256 differs"):
        prepare("cifar10", tmp_path)
    assert not list((tmp_path / "downloads").glob("cifar*"))
    assert_nothing_is_left("cifar10", tmp_path)


def test_a_file_gone_from_the_server_is_stated(tmp_path, monkeypatch, served):
    point_to(monkeypatch, "cifar10", f"{served[1]}/cifar-10-binary.tar.gz")
    with pytest.raises(InputError, match=r"\(HTTP status 404\)"):
        prepare("cifar10", tmp_path)


def test_a_closed_port_fails_within_seconds_and_names_the_folder(tmp_path, monkeypatch, closed_port):
    point_to(monkeypatch, "cifar10", f"http://127.0.0.1:{closed_port}/cifar-10-binary.tar.gz")
    start = time.monotonic()
    with pytest.raises(InputError) as caught:
        prepare("cifar10", tmp_path)
    assert time.monotonic() - start < 5
    for part in (OFFICIAL["cifar10"].url, "Connection refused", str(tmp_path / "downloads"), "--archive=FILE"):
        assert part in str(caught.value)
    assert not list((tmp_path / "downloads").glob("cifar*"))
    assert_nothing_is_left("cifar10", tmp_path)


def no_network(*args, **kwargs):
    raise urllib.error.URLError(socket.gaierror(-2, "Name or service not known"))


def test_no_network_is_stated_in_two_words(tmp_path, monkeypatch):
    monkeypatch.setattr(download.urllib.request, "urlopen", no_network)
    with pytest.raises(InputError, match=r"cannot download http\S+tiny-imagenet-200.zip \(no network\); put tiny"):
        prepare("tiny_imagenet", tmp_path)


def test_a_name_server_that_does_not_answer_is_not_waited_for(tmp_path, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(download.urllib.request, "urlopen", lambda *args, **kwargs: release.wait(60))
    monkeypatch.setattr(download, "_ANSWER_SECONDS", 0.1)
    with pytest.raises(InputError, match=r"\(no answer\)"):
        prepare("cifar10", tmp_path)
    release.set()


# Names that only TFDS knows.


@pytest.mark.parametrize(
    ("name", "remedy"), [("cifar1O", "cifar10"), ("tiny-imagenet", "tiny_imagenet"), ("", "catalog")]
)
def test_an_unknown_name_is_refused_with_close_matches(name, remedy, tmp_path):
    with pytest.raises(InputError, match=f"unknown data set '{name}'; .*{remedy}"):
        prepare(name, tmp_path)


def test_a_version_of_an_official_name_is_refused(tmp_path):
    with pytest.raises(InputError, match="give the plain name 'cifar10'"):
        prepare("cifar10:3.0.2", tmp_path)


def test_an_archive_is_only_for_the_official_names(tmp_path):
    with pytest.raises(InputError, match="no archive can be given for 'mnist'"):
        prepare("mnist", tmp_path, tmp_path / "mnist.zip")


def test_another_tfds_name_fails_at_once_without_network(tmp_path, monkeypatch):
    monkeypatch.setattr(download.urllib.request, "urlopen", no_network)
    with pytest.raises(InputError, match=r"cannot download mnist from storage.googleapis.com \(no network\)") as caught:
        prepare("mnist", tmp_path)
    assert f"train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz by hand into {tmp_path}" in str(caught.value)


def test_another_tfds_name_that_needs_files_by_hand_says_so(tmp_path):
    with pytest.raises(InputError, match=r"put the files of imagenet2012 into .*downloads/manual"):
        prepare("imagenet2012", tmp_path)


class PrepareTestText(tfds.core.GeneratorBasedBuilder):
    """A registered data set that TFDS can prepare without TensorFlow."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"text": tfds.features.Text()}))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield 0, {"text": "hello"}


class PrepareTestTensorflow(PrepareTestText):
    """A registered data set that TFDS cannot prepare without TensorFlow."""

    def _generate_examples(self):
        raise ImportError("Failed to import TensorFlow.\nPlease note that ...")


def test_tfds_prepares_what_it_can_without_tensorflow(tmp_path, monkeypatch):
    monkeypatch.setattr(download.urllib.request, "urlopen", lambda *args, **kwargs: io.BytesIO())
    folder = prepare("prepare_test_text", tmp_path)
    assert folder == tmp_path / "prepare_test_text" / "1.0.0"
    assert tfds.data_source("prepare_test_text", split="train", data_dir=tmp_path)[0] == {"text": b"hello"}
    monkeypatch.setattr(download.urllib.request, "urlopen", no_network)
    assert prepare("prepare_test_text", tmp_path) == folder


def test_a_builder_that_needs_tensorflow_gives_the_line_to_run_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(download.urllib.request, "urlopen", lambda *args, **kwargs: io.BytesIO())
    with pytest.raises(InputError) as caught:
        prepare("prepare_test_tensorflow", tmp_path)
    for part in ("`pip install tensorflow`", "python -c", f"data_dir={str(tmp_path)!r}", "file_format='array_record'"):
        assert part in str(caught.value)


# The command line.


def test_the_command_line_reports_bad_input_in_one_line(tmp_path):
    flags = ["--archive=nowhere.tar.gz", f"--dir={tmp_path}"]
    command = [sys.executable, "-m", "osp_jax.data.prepare", "cifar10", *flags]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: nowhere.tar.gz is not a file")
    assert done.stderr.count("\n") == 1
