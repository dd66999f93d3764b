"""Names of methods in tables."""

from osp_jax.methods import get_method
from osp_jax.report.method_names import VERSIONS, method_name


def test_a_table_says_whether_the_paper_or_the_released_code_was_run():
    assert method_name("unsir", {"settings": "as_released"}) == "unsir (as released)"
    assert method_name("unsir", None) == "unsir"
    assert method_name("osp", {"settings": "any"}) == "osp"


def test_the_options_that_say_so_exist():
    for method, option in VERSIONS.items():
        assert isinstance(getattr(get_method(method)(), option), str)
