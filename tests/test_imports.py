"""The direction of imports: data -> model -> training -> statistics -> masks -> methods -> audit -> report."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From left to right; a module imports from its own line and from those above it.
ORDER = (
    ("runtime",),
    ("data", "text"),
    ("trees", "model", "interop", "networks", "forward"),
    ("training",),
    ("program",),
    ("ridge",),
    ("statistics", "statistics_files"),
    ("masks",),
    ("methods.parts",),
    ("methods",),
    ("harm", "stored_features", "head_fit"),
    ("prepared",),
    ("audit",),
    ("exports",),
    ("loading", "head_fit_workdir", "image_request", "workdir_requests"),
    ("exports.workdirs",),
    ("comparison",),
    ("federated",),
    ("report",),
    ("api", "api_arguments", "api_audit"),
    ("",),
)


def modules() -> list[str]:
    paths = sorted((ROOT / "osp_jax").rglob("*.py"))
    return [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths]


def level(module: str) -> int:
    inner = module.removeprefix("osp_jax").removeprefix(".")
    found = [
        (len(name), number)
        for number, names in enumerate(ORDER)
        for name in names
        if inner == name or name == "" or inner.startswith(f"{name}.")
    ]
    return max(found)[1]


def imported(module: str) -> Iterator[str]:
    """The modules of osp_jax that a module imports, anywhere in its file."""
    path = ROOT / (module.replace(".", "/") + ".py")
    path = path if path.exists() else ROOT / module.replace(".", "/") / "__init__.py"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.split(".")[0] == "osp_jax")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "osp_jax":
            known = set(MODULES)
            yield from {full if (full := f"{node.module}.{name.name}") in known else node.module for name in node.names}


MODULES = modules()


@pytest.mark.parametrize("module", [module for module in MODULES if module != "osp_jax"])
def test_a_module_imports_nothing_to_its_right(module):
    backwards = {other for other in imported(module) if level(other) > level(module)}

    assert not backwards, f"{module} imports {', '.join(sorted(backwards))}"


def test_every_part_of_the_library_has_its_place():
    unplaced = {module for module in MODULES if module != "osp_jax" and ORDER[level(module)] == ("",)}

    assert not unplaced


def test_no_method_imports_another():
    methods = {module for module in MODULES if module.startswith("osp_jax.methods.") and module.count(".") == 2}
    methods.discard("osp_jax.methods.parts")

    for module in methods:
        assert not methods & set(imported(module)) - {module}
