"""Small archives in the exact formats of the official ones."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

CIFAR10_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
COARSE_NAMES = [f"coarse_{i}" for i in range(20)]
FINE_NAMES = [f"fine_{i}" for i in range(100)]
WNIDS = ["n03000000", "n01000000", "n02000000"]  # not sorted, like the official file


def tar_gz(path: Path, members: dict[str, bytes]) -> Path:
    """Writes a .tar.gz of `members`."""
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def cifar_records(labels: np.ndarray, images: np.ndarray) -> bytes:
    """The records of labels [n k] and images [n h w c]: k label bytes, then the image by channel, row and column."""
    flat = images.transpose(0, 3, 1, 2).reshape(len(images), -1)  # n h w c -> n (c h w)
    return np.concatenate([labels, flat], axis=1).astype(np.uint8).tobytes()


def cifar10(path: Path, per_batch: int = 4) -> tuple[Path, np.ndarray, np.ndarray]:
    """Writes cifar-10-binary.tar.gz; returns its path, labels [n 1] and images [n h w c], the test batch last."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, (6 * per_batch, 1))
    images = rng.integers(0, 256, (6 * per_batch, 32, 32, 3))
    batches = ["test_batch.bin", *(f"data_batch_{i}.bin" for i in (1, 2, 3, 4, 5))]
    order = {name: slice(i * per_batch, (i + 1) * per_batch) for i, name in enumerate(batches[1:] + batches[:1])}
    members = {f"cifar-10-batches-bin/{b}": cifar_records(labels[order[b]], images[order[b]]) for b in batches}
    members["cifar-10-batches-bin/batches.meta.txt"] = "\n".join([*CIFAR10_NAMES, "", ""]).encode()
    return tar_gz(path / "cifar-10-binary.tar.gz", members), labels, images


def cifar100(path: Path, train: int = 6, test: int = 3) -> tuple[Path, np.ndarray, np.ndarray]:
    """Writes cifar-100-binary.tar.gz; returns its path, labels [n 2] (coarse, fine) and images, the test ones last."""
    rng = np.random.default_rng(1)
    labels = np.stack([rng.integers(0, 20, train + test), rng.integers(0, 100, train + test)], axis=1)
    images = rng.integers(0, 256, (train + test, 32, 32, 3))
    members = {
        "cifar-100-binary/train.bin": cifar_records(labels[:train], images[:train]),
        "cifar-100-binary/test.bin": cifar_records(labels[train:], images[train:]),
        "cifar-100-binary/coarse_label_names.txt": "\n".join([*COARSE_NAMES, ""]).encode(),
        "cifar-100-binary/fine_label_names.txt": "\n".join([*FINE_NAMES, ""]).encode(),
    }
    return tar_gz(path / "cifar-100-binary.tar.gz", members), labels, images


def jpeg(seed: int, size: int = 64, mode: str = "RGB") -> bytes:
    """The bytes of a random JPEG image."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG")
    return buffer.getvalue()


def tiny_imagenet_members() -> dict[str, bytes]:
    """The members of a small tiny-imagenet-200.zip; the last image is grey, as some official ones are."""
    root = "tiny-imagenet-200"
    members = {
        f"{root}/wnids.txt": "\n".join([*WNIDS, ""]).encode(),
        f"{root}/words.txt": "".join(f"{wnid}\tsome words\n" for wnid in WNIDS).encode(),
        f"{root}/val/val_annotations.txt": "".join(
            f"val_{i}.JPEG\t{wnid}\t0\t0\t9\t9\n" for i, wnid in enumerate(WNIDS)
        ).encode(),
    }
    for i, wnid in enumerate(WNIDS):
        members[f"{root}/train/{wnid}/{wnid}_boxes.txt"] = b"ignored"
        members |= {f"{root}/train/{wnid}/images/{wnid}_{j}.JPEG": jpeg(10 * i + j) for j in range(2)}
        members[f"{root}/val/images/val_{i}.JPEG"] = jpeg(100 + i, mode="L" if i == 2 else "RGB")
    members[f"{root}/test/images/test_0.JPEG"] = jpeg(1000)
    return members


def zip_file(path: Path, members: dict[str, bytes]) -> Path:
    """Writes a .zip of `members`."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def unpack(archive: Path, folder: Path) -> dict[str, bytes]:
    """Unpacks a .tar.gz into `folder`; returns its members."""
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
        return {member.name: tar.extractfile(member).read() for member in tar}
