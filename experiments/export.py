"""Writes a model's weights, or its program, for use elsewhere.

python -m experiments.export --workdir=runs/without_3 --out=without_3.pt

The layout is the one that came in: a forgotten class keeps its logit, and entries that the request did not change are
bit-identical. StableHLO and ONNX programs hold the weights, take normalised float32 images in batches of any size
(NCHW of a PyTorch network, else NHWC), and are compared with the network before they are written.
"""

import sys
from pathlib import Path

from absl import flags

from experiments import cli

_WORKDIR = cli.folder_flag("workdir", "the model to export", required=True)
_OUT = cli.path_flag("out", "the file to write; a folder for orbax", required=True)
_FORMAT = flags.DEFINE_string(
    "format",
    "",
    "torch, safetensors, msgpack, orbax, npz, stablehlo or onnx; empty: by the suffix of --out, else as it came in",
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace --out")


def main() -> None:
    from osp_jax.exports.workdirs import export_workdir

    done = export_workdir(Path(_WORKDIR.value), Path(_OUT.value), _FORMAT.value, overwrite=_OVERWRITE.value)
    print(f"wrote {done}")
    if done.beside:
        print(
            f"warning: {done.path} also holds {', '.join(done.beside)} as before the request, which may still know the "
            "forgotten classes; leave that out where the file is passed on",
            file=sys.stderr,
        )


if __name__ == "__main__":
    cli.run(main)
