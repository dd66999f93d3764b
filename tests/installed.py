"""Checks an installed wheel: `make test-wheel` runs this in an environment that has the wheel and what it needs alone.

The library comes from the installation, and the checks from the repository, which is the last entry of `sys.path`.
"""

from pathlib import Path

import configs
import experiments
import osp_jax
from tests.documents import ROOT, python_block
from tests.reader import assert_the_lines_forget


def files_of(folder: Path) -> set[Path]:
    return {
        path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }


def main() -> None:
    for package in (osp_jax, experiments, configs):
        folder = Path(package.__path__[0]).resolve()
        assert "site-packages" in folder.parts, f"{package.__name__} comes from {folder}; install the wheel"
        missing = files_of(ROOT / package.__name__) - files_of(folder)
        assert not missing, f"the wheel lacks {', '.join(sorted(map(str, missing)))}"
    for name in osp_jax.__all__:
        getattr(osp_jax, name)
    assert_the_lines_forget(python_block(ROOT / "README.md", "from_linen"))
    print("the wheel has every file, and the README's lines forget the class")
