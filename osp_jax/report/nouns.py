"""What the inputs of a network are called in a report: "image" or "text".

The names in records stay as they are, such as `image_shape` or `all_layers_50_images`.
"""

from collections.abc import Mapping
from typing import Any

from osp_jax.data.kinds import is_text


def noun(record: Mapping[str, Any]) -> str:
    """'text' where the network of an evaluation, a sweep or a comparison reads texts, else 'image'."""
    return "text" if is_text(record.get("dataset", {}).get("image_shape", ())) else "image"


def spelled_out(name: str, kind: str) -> str:
    """A name of a record in words, such as 'protocol_images' for 'images' or 'texts', as `kind` says."""
    return name.replace("_", " ").replace("image", kind)
