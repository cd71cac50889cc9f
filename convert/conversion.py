"""From a PyTorch checkpoint to an MLX model folder: read, fit or shorten a projection, write, upload."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlx_colbert.convert.converted import (
    quantized,
    read_checkpoint,
    shortened,
    write_folder,
)
from mlx_colbert.convert.draft import in_place_at_once
from mlx_colbert.convert.projection import fit_projection
from mlx_colbert.convert.upload import upload
from mlx_colbert.errors import CheckpointError, InputError, TargetExistsError
from mlx_colbert.model.config import Dtype, QuantizationConfig
from mlx_colbert.model.folder import is_converted
from mlx_colbert.model.hub import locate

__all__ = ["convert"]


def convert(
    hf_path: str | Path,
    mlx_path: str | Path = "mlx_model",
    *,
    revision: str | None = None,
    dtype: Dtype | None = None,
    quantize: bool = False,
    q_bits: int = 4,
    q_group_size: int = 64,
    dim: int | None = None,
    language: str | None = None,
    projection_dim: int | None = None,
    fit_on: str | Path | None = None,
    ignore_config_keys: Sequence[str] = (),
    upload_repo: str | None = None,
) -> Path:
    """Convert a PyTorch checkpoint to an MLX model folder, without torch.

    Args:
        hf_path: a hub id, or a local folder.
        mlx_path: the folder to write; it must not exist.
        revision: branch, tag or commit on the hub.
        dtype: "float16", "bfloat16" or "float32". None: the widest that the checkpoint has.
        quantize: store the large matrices as integers.
        q_bits: bits of an integer: 2, 4 or 8.
        q_group_size: weights that share a scale: 32, 64 or 128.
        dim: components of a token embedding to keep, the first ones (Matryoshka). None: all.
        language: the language whose adapters are kept, if the checkpoint has adapters for each language:
            "en_XX" for example. None: its default language.
        projection_dim: components of a token embedding, for an encoder without a ColBERT head.
        fit_on: texts to fit the projection on, a file or folder that `read_passages` reads.
        ignore_config_keys: settings to ignore if they are not understood; you know that they do
            not change the vectors. `config.json` of the result records them.
        upload_repo: hub repository to upload the folder to, with a model card.

    Returns:
        The folder written.

    Raises:
        TargetExistsError: if `mlx_path` exists.
        CheckpointNotFoundError: if there is no such checkpoint.
        CheckpointError: if the checkpoint cannot be converted. The error lists all reasons.
        ConfigError: if a setting is out of range.
        InputError: if the texts to fit on cannot be read.
    """
    target = Path(mlx_path)
    if target.exists() or target.is_symlink():
        raise TargetExistsError(target, advice="Remove it, or choose another --mlx-path.")
    if dim is not None and projection_dim is not None:
        raise InputError(
            "give dim or projection_dim, not both: dim shortens a projection, projection_dim makes one."
        )
    if (projection_dim is None) != (fit_on is None):
        raise InputError(
            "projection_dim needs fit_on, and fit_on needs projection_dim: give both, or neither."
        )
    if isinstance(ignore_config_keys, str):
        raise InputError("ignore_config_keys is a single string. Give a list of names.")
    quantization = QuantizationConfig(q_bits, q_group_size) if quantize else None
    location = locate(hf_path, revision=revision)
    if is_converted(location.folder):
        raise CheckpointError(
            location.id, "is a converted model already. Use it as it is (--model, ColBERT.load)."
        )
    model = read_checkpoint(location, dtype=dtype, language=language, ignore_config_keys=ignore_config_keys)
    if dim is not None:
        model = shortened(model, dim)
    if projection_dim is not None and fit_on is not None:
        model = fit_projection(model, Path(fit_on), projection_dim)
    if quantization is not None:
        model = quantized(model, quantization)
    with in_place_at_once(target) as draft:
        write_folder(model, draft)
    if upload_repo is not None:
        upload(target, upload_repo, location)
    return target
