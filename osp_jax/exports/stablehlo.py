"""A model as a StableHLO program with its weights, serialised by `jax.export`.

    from pathlib import Path
    from jax import export

    program = export.deserialize(bytearray(Path("model.stablehlo").read_bytes()))
    logits = program.call(images)  # normalised float32 images, any batch size

`program.in_avals` and `program.out_avals` give the shapes; `program.mlir_module()` is the StableHLO text.
"""

from collections.abc import Callable
from functools import partial

import jax

from osp_jax.exports.program import Program, any_batch
from osp_jax.runtime.errors import InputError, one_line

PLATFORMS = ("cpu", "cuda", "tpu")


def serialised(program: Program) -> tuple[bytes, tuple[str, ...]]:
    """(the program with its weights, its platforms: those of `PLATFORMS` for which it can be lowered).

    Raises:
      InputError: it cannot be traced for a symbolic batch size, or not lowered or serialised for any platform.
    """
    try:
        import flatbuffers  # noqa: F401 (jax.export serialises with it)
    except ImportError as error:
        raise InputError("StableHLO needs flatbuffers, which is not installed; run: pip install flatbuffers") from error
    images = any_batch(program)
    function = jax.jit(partial(program.function, program.variables))
    refused: Exception | None = None
    for platforms in (PLATFORMS, *[(name,) for name in PLATFORMS]):
        try:
            exported = jax.export.export(function, platforms=platforms)(images)
            return bytes(exported.serialize()), platforms
        except (NotImplementedError, ValueError) as error:  # no rule for a platform, or a call that is not portable
            refused = error
    raise InputError(
        f"the network cannot be exported as StableHLO ({one_line(str(refused))[:300]}); choose another --format"
    ) from refused


def loaded(content: bytes) -> Callable[[jax.Array], jax.Array]:
    """The function from images to logits of a serialised program."""
    return jax.jit(jax.export.deserialize(bytearray(content)).call)
