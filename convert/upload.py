"""Uploads a converted folder to the Hugging Face hub, with a model card."""

from __future__ import annotations

import re
from pathlib import Path

from mlx_colbert.checkpoint import read_config
from mlx_colbert.errors import CheckpointError

__all__ = ["model_card", "upload"]

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
"""


def model_card(folder: Path, repo: str, *, card_of: Path) -> str:
    """The README.md of a converted model.

    Args:
        folder: the converted folder.
        repo: the hub repository that it goes to.
        card_of: the original's folder, whose README.md names the licence.
    """
    config = read_config(folder)
    original = card_of / "README.md"
    licence = None
    if original.is_file():
        # Only the licence is taken over, and only where it is one plain word.
        licence = re.search(
            r"^license:\s*([\w.-]+)\s*$", original.read_text(encoding="utf-8", errors="replace"), re.M
        )
    source = config.source
    front = f"license: {licence[1]}\n" if licence else ""
    front += f"base_model: {source.id}\n" if "/" in source.id else ""
    quantization = config.quantization
    return _CARD.format(
        front=front,
        repo=repo,
        source=f"[{source.id}](https://huggingface.co/{source.id})" if "/" in source.id else source.id,
        revision=f" at revision {source.revision}" if source.revision else "",
        version=source.converter,
        dim=config.dim,
        dtype=config.dtype,
        bits=f", the large matrices in {quantization.bits} bits" if quantization else "",
    )


def upload(folder: Path, repo: str, *, card_of: Path) -> None:
    """Creates the repository if need be and uploads the folder.

    Raises:
        CheckpointError: if the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    (folder / "README.md").write_text(model_card(folder, repo, card_of=card_of), encoding="utf-8")
    api = HfApi()
    try:
        api.create_repo(repo, exist_ok=True)
        api.upload_folder(folder_path=str(folder), repo_id=repo, repo_type="model")
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(repo, f"not uploaded (the folder {folder} is complete): {reason}") from error
