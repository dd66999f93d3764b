"""Config files are user code: any failure gives one line."""

import pytest

from osp_jax.runtime.config_files import load_config
from osp_jax.runtime.errors import InputError

GOOD = "from ml_collections import ConfigDict\ndef get_config(seed='0'):\n    return ConfigDict({'seed': int(seed)})\n"


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("def get_config():\n    raise RuntimeError('over\\ntwo lines')", "RuntimeError: over"),
        ("def get_config(:", "SyntaxError"),
        ("\0", "SyntaxError"),
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("raise MemoryError", "MemoryError"),
        ("def get_config(): return get_config()", "RecursionError"),
        ("open('/nowhere/at/all')", "FileNotFoundError"),
        ("def get_config(one, two): return 1", "TypeError"),
        ("def get_config(): pass", "returns NoneType, not a ConfigDict"),
        ("def get_config(): return {}", "returns dict, not a ConfigDict"),
        ("get_config = 3", "not a ConfigDict"),
        ("config = 3", "has no function get_config"),
    ],
)
def test_a_file_that_gives_no_config_is_named_with_the_reason(program, words, tmp_path):
    file = tmp_path / "config.py"
    file.write_text(program)
    with pytest.raises(InputError) as caught:
        load_config(str(file))
    assert str(file) in str(caught.value)
    assert words in str(caught.value)
    assert "configs/digits.py" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing.py", "does not exist"),
        ("folder", "which is a folder"),
        ("circle", "in a circle"),
        ("x" * 300, "too long"),
        ("config.py/below", "a part of it is a file"),
        ("a\nb", "control characters"),
    ],
)
def test_what_is_no_file_is_refused(name, words, tmp_path):
    (tmp_path / "config.py").write_text(GOOD)
    (tmp_path / "folder").mkdir()
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(InputError, match=words):
        load_config(str(tmp_path / name))


def test_an_empty_name_is_refused():
    with pytest.raises(InputError, match="--config is empty"):
        load_config("")


def test_a_config_may_take_an_argument(tmp_path):
    (tmp_path / "config.py").write_text(GOOD)
    assert load_config(str(tmp_path / "config.py")).seed == 0
    assert load_config(f"{tmp_path / 'config.py'}:7").seed == 7


def test_a_config_that_is_installed_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("configs/digits.py").data.name == "digits"
    with pytest.raises(InputError, match=r"configs/nothing.py does not exist"):
        load_config("configs/nothing.py")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "digits.py").write_text(GOOD)
    assert load_config("configs/digits.py").seed == 0
