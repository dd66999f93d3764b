"""The network of the digits in NumPy float64: the inputs of its layers as the columns of a matrix."""

import itertools

import numpy as np

STRIDES = {"conv1": 1, "conv2": 2, "conv3": 1}


def layer_columns(digits, indices):
    """By layer, (inputs, n): the 3x3 patches of each position, channels first as in the papers; `head`: features."""
    params, batch_stats = (digits.model.variables[name] for name in ("params", "batch_stats"))
    mean, std = np.array(digits.preparation.mean), np.array(digits.preparation.std)
    x = (digits.dataset.train.images[indices] / 255 - mean) / std
    columns = {}
    for i, (name, stride) in enumerate(STRIDES.items(), start=1):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        places = itertools.product(range(0, x.shape[1], stride), range(0, x.shape[2], stride))
        # One block of patches a position: (images, 3, 3, channels) -> (images, channels, 3, 3)
        blocks = [padded[:, r : r + 3, c : c + 3].transpose(0, 3, 1, 2).reshape(len(x), -1) for r, c in places]
        columns[name] = np.concatenate(blocks).T
        y = columns[name].T @ outputs_by_inputs(params[name]["kernel"]).T
        y = (
            y.reshape(-1, len(x), y.shape[-1])
            .transpose(1, 0, 2)
            .reshape(len(x), -(-x.shape[1] // stride), -1, y.shape[-1])
        )
        norm, moving = ({k: np.asarray(v, np.float64) for k, v in c[f"bn{i}"].items()} for c in (params, batch_stats))
        y = (y - moving["mean"]) / np.sqrt(moving["var"] + 1e-5) * norm["scale"] + norm["bias"]
        x = np.maximum(y, 0)
    columns["head"] = x.mean((1, 2)).T
    return columns


def outputs_by_inputs(kernel):
    """W (outputs, inputs) as the papers have it: of a 3x3 kernel (3, 3, in, out), flattened channels first."""
    kernel = np.asarray(kernel, np.float64)
    return np.moveaxis(kernel, (-1, -2), (0, 1)).reshape(kernel.shape[-1], -1)
