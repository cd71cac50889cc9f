"""Upload a converted folder to the Hugging Face hub, with a model card."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mlx_colbert.convert.verify import Check
from mlx_colbert.errors import CheckpointError
from mlx_colbert.model.folder import read_config
from mlx_colbert.model.hub import Location, hub_cause, hub_reason

__all__ = ["model_card", "upload"]

# Characters. The settings of a card are at its beginning.
_CARD_BYTES = 1 << 16
_CARD = """\
---
library_name: mlx-colbert
pipeline_tag: sentence-similarity
tags: [mlx, colbert, late-interaction, multi-vector, retrieval]
{front}---

# {repo}

{source}{revision}, converted to MLX with mlx-colbert {version}:
token embeddings of {dim} components, weights in {dtype}{bits}.

```bash
pip install mlx-colbert
```

```python
from mlx_colbert import ColBERT

model = ColBERT.load("{repo}")
queries = model.encode_query(["Who wrote it?"])
documents = model.encode_document(["Harper Lee wrote it.", "It was filmed in 1962."])
print(model.similarity(queries, documents))
```

## Parity with the original

{parity}
"""
_UNVERIFIED = """\
Not compared before the upload. Where values of the original are published, `mlx-colbert verify-model {repo}`
compares with them."""


def model_card(
    folder: Path, repo: str, *, licence: str | None = None, checks: Sequence[Check] | None = None
) -> str:
    """The README.md of a converted model.

    Args:
        folder: the converted folder.
        repo: the hub repository to upload to.
        licence: the licence of the original.
        checks: the comparisons made with the original, all passed.
    """
    config = read_config(folder)
    source, quantization = config.source, config.quantization
    front = f"license: {licence}\n" if licence else ""
    if "/" in source.id:
        front += f"base_model: {source.id}\n"
        front += "base_model_relation: quantized\n" if quantization else ""
    parts = [(check.name, check.expected, check.measured) for check in checks or ()]
    rows = [f"| {' | '.join(map(_cell, row))} |" for row in parts]
    return _CARD.format(
        front=front,
        repo=repo,
        source=f"[{source.id}](https://huggingface.co/{source.id})" if "/" in source.id else source.id,
        revision=f" at revision {source.revision}" if source.revision else "",
        version=source.converter,
        dim=config.dim,
        dtype=config.dtype,
        bits=f", the large matrices in {quantization.bits} bits" if quantization else "",
        parity="\n".join(["| compared | expected | measured |", "|---|---|---|", *rows])
        if rows
        else _UNVERIFIED.format(repo=repo),
    )


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _licence(original: Location) -> str | None:
    """The licence in the card of the original, if it is one word."""
    card = original.folder / "README.md"
    if original.revision is not None:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError

        try:
            card = Path(hf_hub_download(original.id, "README.md", revision=original.revision))
        except EntryNotFoundError:
            return None
    if not card.is_file():
        return None
    with card.open("rb") as file:
        text = file.read(_CARD_BYTES).decode(errors="replace")
    found = re.search(r"^license:\s*([\w.-]+)\s*$", text, re.M)
    return found[1] if found else None


def upload(folder: Path, repo: str, original: Location, checks: Sequence[Check] | None = None) -> None:
    """Create the repository if it does not exist, and upload the folder.

    Args:
        folder: the converted folder. A README.md is added.
        repo: hub id.
        original: the checkpoint that was converted.
        checks: the comparisons made with the original.

    Raises:
        CheckpointError: if the hub refuses.
    """
    from huggingface_hub import HfApi

    try:
        card = model_card(folder, repo, licence=_licence(original), checks=checks)
        (folder / "README.md").write_text(card, encoding="utf-8")
        api = HfApi()
        api.create_repo(repo, exist_ok=True)
        api.upload_folder(folder_path=str(folder), repo_id=repo, repo_type="model")
    # The library's HTTP client changes with its version, and so do the exceptions that it raises.
    except Exception as error:
        reason = hub_reason(error, repo)
        problem = f"not uploaded (the folder {folder} is complete): {reason}"
        raise CheckpointError(repo, problem) from hub_cause(error)
