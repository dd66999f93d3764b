"""Options of SGD that the authors' code of Unlearn-Sparse (Jia et al., arXiv 2304.04934) gives all its methods."""

from typing import Any

from osp_jax.methods.parts.options import option

_SOURCE = "Unlearn-Sparse, arg_parser.py: --"


def batch_size_option() -> Any:
    """Images in a batch."""
    return option(256, "images in a batch", low=1, source=f"{_SOURCE}batch_size")


def momentum_option() -> Any:
    """Momentum of SGD."""
    return option(0.9, "momentum of SGD", low=0, high=1, source=f"{_SOURCE}momentum")


def weight_decay_option() -> Any:
    """Weight decay."""
    return option(5e-4, "weight decay, on kernels only (ours)", low=0, source=f"{_SOURCE}weight_decay")
