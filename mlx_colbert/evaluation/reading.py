"""Read a dataset from where it is: a folder, or ir_datasets."""

from __future__ import annotations

from pathlib import Path

from mlx_colbert.evaluation.beir import read_beir
from mlx_colbert.evaluation.dataset import Dataset
from mlx_colbert.evaluation.ir_dataset import read_ir_dataset

__all__ = ["read_dataset"]

_IR_DATASETS = "irds:"


def read_dataset(
    place: str | Path, *, split: str = "test", allow_unknown: bool = False, max_queries: int | None = None
) -> Dataset:
    """The dataset of a folder in BEIR's layout, or "irds:" and a name of ir_datasets.

    Args:
        place: the folder, or a name such as "irds:beir/scifact/test".
        split: the judgements of a folder to take.
        allow_unknown: as for `Dataset.check`.
        max_queries: as for `Dataset.check`.

    Raises:
        InputError: if it is not such a dataset. The message has the file and the line.
        MissingExtraError: if ir_datasets is needed and not installed.
        OSError: if a file cannot be read.
    """
    if isinstance(place, str) and place.startswith(_IR_DATASETS):
        name = place.removeprefix(_IR_DATASETS)
        return read_ir_dataset(name, allow_unknown=allow_unknown, max_queries=max_queries)
    return read_beir(place, split=split, allow_unknown=allow_unknown, max_queries=max_queries)
