"""What an integration says if its framework is not installed."""

from __future__ import annotations

import importlib
import sys

import pytest

from mlx_colbert.errors import MissingExtraError


@pytest.mark.parametrize(
    ("module", "party", "extra"),
    [
        ("langchain", "langchain_core", "langchain"),
        ("llama_index", "llama_index", "llama-index"),
        ("haystack", "haystack", "haystack"),
        ("llm", "llm", "llm"),
    ],
)
def test_missing_framework_is_named_with_its_extra(monkeypatch, module, party, extra):
    for name in [name for name in sys.modules if name == party or name.startswith(f"{party}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, party, None)
    for name in (module, f"{module}_filter"):
        monkeypatch.delitem(sys.modules, f"mlx_colbert.integrations.{name}", raising=False)

    with pytest.raises(MissingExtraError, match=rf"pip install 'mlx-colbert\[{extra}\]'") as raised:
        importlib.import_module(f"mlx_colbert.integrations.{module}")

    assert raised.value.extra == extra
