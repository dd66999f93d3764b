"""Normalisation and augmentation of uint8 images and of texts, on the device, inside the jitted step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.data.kinds import PAD, is_text
from osp_jax.runtime.distributed import split_rows


class Preparation(NamedTuple):
    """Normalisation (on the 0..1 scale) and augmentation of a data set's images; hashable.

    Texts are not normalised; `word_dropout` is the share of their tokens that training drops.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: int = 0
    flip: bool = False
    cutout: int = 0
    pad_mode: str = "reflect"  # or "zeros"
    word_dropout: float = 0.0

    def without_augmentation(self) -> "Preparation":
        """Returns the normalisation alone."""
        return Preparation(self.mean, self.std)

    def moments(self) -> tuple[jax.Array, jax.Array]:
        """`mean` and `std` as float32 `(c,)`, for programs that take them as arguments."""
        return jnp.array(self.mean, jnp.float32), jnp.array(self.std, jnp.float32)

    def plain(self, images: jax.Array) -> jax.Array:
        """uint8 `(batch, h, w, c)` -> normalised float32."""
        return normalise(images, *self.moments())

    def augmented(self, images: jax.Array, key: jax.Array) -> jax.Array:
        """uint8 `(batch, h, w, c)` -> normalised and augmented, float32."""
        return self.changed(self.plain(images), key, *self.moments())

    def changed(self, images: jax.Array, key: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
        """Images normalised by `mean` and `std` `(c,)`, or texts, augmented as in training."""
        if is_text(images.shape[1:]):
            return drop_words(images, key, self.word_dropout) if self.word_dropout else images
        black = None if self.pad_mode == "reflect" else -mean / std
        return augment(images, key, pad=self.pad, flip=self.flip, cutout=self.cutout, border=black)


def normalise(images: jax.Array | np.ndarray, mean: jax.Array, std: jax.Array) -> jax.Array:
    """uint8 `(batch, h, w, c)` -> float32, with `mean` and `std` `(c,)` on the 0..1 scale; for texts, uint16
    `(batch, length)`, the unchanged ids in float32.

    Every program passes its images through this function, so it splits them over the devices.
    """
    images = split_rows(images)
    if images.dtype == jnp.uint16:
        return images.astype(jnp.float32)
    return (images.astype(jnp.float32) / 255 - mean) / std


def drop_words(ids: jax.Array, key: jax.Array, share: float) -> jax.Array:
    """Texts `(batch, length)` with each token replaced by padding with the probability `share`.

    This follows the word dropout of Iyyer et al. (2015, "Deep Unordered Composition Rivals Syntactic Methods for Text
    Classification").
    """
    return jnp.where(jax.random.bernoulli(key, share, ids.shape), jnp.asarray(PAD, ids.dtype), ids)


def channel_moments(images, indices=None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) per channel of a uint8 NumPy array `(n, h, w, c)`, or of its `indices` `(k,)`, on the 0..1 scale.

    They are computed from counts of the 256 values, in chunks, without a float copy of the data set, and without any
    copy of images in files (`data.stored.StoredImages`).
    """
    import numpy as np

    indices = np.arange(len(images)) if indices is None else indices
    counts = np.zeros((images.shape[-1], 256), np.int64)
    for start in range(0, len(indices), 1000):
        some = images[indices[start : start + 1000]]
        counts += [np.bincount(some[..., channel].ravel(), minlength=256) for channel in range(len(counts))]
    values = np.arange(256) / 255
    moments = []
    for count in counts:
        share = count / count.sum()
        mean = share @ values
        # A constant channel would divide by zero; 1/255 is the resolution of the scale.
        moments.append((float(mean), float(max(np.sqrt(share @ (values - mean) ** 2), 1 / 255))))
    mean, std = zip(*moments, strict=True)
    return mean, std


def augment(
    images: jax.Array,
    key: jax.Array,
    *,
    pad: int = 0,
    flip: bool = False,
    cutout: int = 0,
    border: jax.Array | None = None,
) -> jax.Array:
    """Random crop after padding by `pad` pixels, horizontal flip, and a square of `cutout` pixels set to 0.

    Args:
      images: `(batch, h, w, c)`, any dtype; in normalised images the square gets the mean colour.
      key: a random key; each image draws its own crop, flip and square.
      border: the colour of the padding, `(c,)`, in the units of `images`; None reflects the image.
    """
    crop_key, flip_key, cutout_key = jax.random.split(key, 3)
    batch, height, width, channels = images.shape
    if pad:
        widths = ((0, 0), (pad, pad), (pad, pad), (0, 0))
        if border is None:
            padded = jnp.pad(images, widths, mode="reflect")
        else:
            inside = jnp.pad(jnp.ones((1, height, width, 1), bool), widths)
            padded = jnp.where(inside, jnp.pad(images, widths), border.astype(images.dtype))
        offsets = jax.random.randint(crop_key, (batch, 2), 0, 2 * pad + 1)
        crop = jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), (height, width, channels)))
        images = crop(padded, offsets)
    if flip:
        flipped = jax.random.bernoulli(flip_key, shape=(batch, 1, 1, 1))
        images = jnp.where(flipped, images[:, :, ::-1], images)
    if cutout:
        centre = jax.random.randint(cutout_key, (batch, 2, 1, 1), 0, jnp.array([[[height]], [[width]]]))
        rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
        top, left = centre[:, 0] - cutout // 2, centre[:, 1] - cutout // 2
        inside = (rows >= top) & (rows < top + cutout) & (columns >= left) & (columns < left + cutout)
        images = jnp.where(inside[..., None], jnp.zeros((), images.dtype), images)
    return images
