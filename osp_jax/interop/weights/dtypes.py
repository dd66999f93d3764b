"""Names of dtypes in weight files, including those that NumPy lacks."""

import ml_dtypes
import numpy as np

# Other dtypes of the formats (text, dates, structures, objects) are not weights.
_NUMPY = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128"
_OTHERS = "bfloat16 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu"

DTYPES: dict[str, np.dtype] = {name: np.dtype(name) for name in _NUMPY.split()} | {
    name: np.dtype(getattr(ml_dtypes, name)) for name in _OTHERS.split() if hasattr(ml_dtypes, name)
}
"""Every dtype of whole bytes for weights, by name."""


def is_known(dtype: np.dtype) -> bool:
    """Whether weights can have this dtype, in any byte order."""
    return dtype.newbyteorder("=") in DTYPES.values()
