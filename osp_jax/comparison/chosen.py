"""The settings that a comparison selected for a method, read from its results."""

from pathlib import Path

from osp_jax.runtime import records
from osp_jax.runtime.errors import InputError
from osp_jax.runtime.workdir import read_json


def chosen_settings(path: Path, method: str) -> list[str]:
    """The settings of `method` in a comparison, as 'setting=value' texts for `osp_jax.methods.parse_options`.

    Args:
      path: `results.json` of `experiments.benchmark`, which uses the same settings for every request.

    Raises:
      InputError: the file is missing, is not of a comparison, or has no row of the method.
    """
    cells = records.checked(read_json(path), records.Compared, path, "give results.json of a comparison")["cells"]
    rows = [cell for cell in cells if cell["method"] == method]
    if not rows:
        raise InputError(f"{path} has no row of {method}; leave --settings out, or compare it there first")
    return [f"{setting}={value}" for setting, value in rows[0].get("options", {}).items()]
