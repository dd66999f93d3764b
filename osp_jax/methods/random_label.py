"""Random labels: trains on the forgotten images with labels of other classes and on the retained ones with their own.

The baseline of Golatkar et al. (CVPR 2020, arXiv 1911.04933, section 6) and of Graves et al. (AAAI 2021,
arXiv 2010.10981), in the form that SalUn builds on (Fan et al., ICLR 2024, arXiv 2310.12508). Defaults are those of its
code (github.com/OPTML-Group/Unlearn-Saliency, Classification/unlearn/RL.py) for CIFAR-10: in each epoch one pass over
the relabelled forgotten images, then one over the retained images, all augmented, at a constant rate.

The code draws from all classes, including the image's own; the paper wants another class. Ours follows the paper, and
no forgotten class gets the label of another (`labels`). Also ours: the last batch of a pass is padded.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax

from osp_jax.methods.parts.data import RequestData
from osp_jax.methods.parts.relabelled import Relabelling, descend_relabelled
from osp_jax.model import Model
from osp_jax.statistics import Statistics


@dataclasses.dataclass(frozen=True)
class RandomLabel(Relabelling):
    """Training on forgotten images with random labels, and on retained ones with their own."""

    sees: ClassVar[tuple[str, ...]] = ("retain", "forget")
    search: ClassVar[Mapping[str, Any]] = {
        "learning_rate": (0.001, 0.003, 0.01, 0.03, 0.1),
        "epochs": (5, 10),
        "mixed": (False, True),
    }

    def unlearn(
        self,
        model: Model,
        forget: tuple[int, ...],
        *,
        data: RequestData,
        statistics: Statistics,
        rng: jax.Array,
    ) -> Model:
        """Returns the model after `epochs` passes over the relabelled and the retained images."""
        return descend_relabelled(self, model, forget, data, statistics.classes_seen(), rng)
