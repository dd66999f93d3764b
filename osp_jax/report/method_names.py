"""Names of methods as tables show them: where paper and released code differ, which of the two was run."""

from collections.abc import Mapping
from typing import Any

# The option that says which one.
VERSIONS = {"cdp": "variant", "unsir": "settings"}


def method_name(method: str, options: Mapping[str, Any] | None) -> str:
    """As `unsir (as released)`; the name alone for a method that has one version, or whose options are not known."""
    version = (options or {}).get(VERSIONS.get(method, ""))
    return f"{method} ({version.replace('_', ' ')})" if version else method
