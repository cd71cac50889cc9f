"""A `ColBERT` for programs that expect a model of sentence-transformers or PyLate: torch tensors come out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from mlx_colbert.checks import check_texts
from mlx_colbert.errors import InputError, MissingExtraError
from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.model.config import Task
from mlx_colbert.model.pooling import pool
from mlx_colbert.model.scoring import Embeddings
from mlx_colbert.types import Array, TokenEmbeddings, as_array

try:
    import torch
except ModuleNotFoundError as error:
    raise MissingExtraError("PyTorch", "sentence-transformers") from error

__all__ = ["TorchColBERT"]

# One text, several, or a list of texts for each query, as PyLate reranks them.
Texts = str | Iterable[str] | Iterable[Iterable[str]]


class TorchColBERT:
    """A `ColBERT` with the methods of `MultiVectorEncoder` of sentence-transformers and `ColBERT` of PyLate.

    It is for their evaluators, for `pylate.rank.rerank`, and for other code that calls these methods. The
    model computes with MLX or numpy as always. Arguments that choose a device, a batch size or a
    normalisation have no effect: token embeddings have unit length.

    Attributes:
        model: the model.
        prompts: empty prompts. Those of the checkpoint are in its prefixes.
        device: where the tensors are: the CPU.
        similarity_fn_name: "maxsim" or "meanmaxsim", as the checkpoint says.
        model_card_data: forgets what the evaluators tell it.
    """

    def __init__(self, model: ColBERT) -> None:
        self.model = model
        self.prompts = {"query": "", "document": ""}
        self.device = torch.device("cpu")
        self.similarity_fn_name = model.config.colbert.similarity
        self.model_card_data = _ModelCard()

    def get_embedding_dimension(self) -> int:
        """D, the number of components of a token embedding."""
        return self.model.dim

    def encode_query(self, inputs: Texts, **options: Any) -> Any:
        """Token embeddings of queries, as `encode` with task="query"."""
        return self.encode(inputs, task="query", **options)

    def encode_document(self, inputs: Texts, **options: Any) -> Any:
        """Token embeddings of documents, as `encode` with task="document"."""
        return self.encode(inputs, task="document", **options)

    def encode(
        self,
        inputs: Texts | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: Literal["token_embeddings"] = "token_embeddings",
        convert_to_numpy: bool = False,
        *,
        task: Task | None = None,
        is_query: bool | None = None,
        sentences: Texts | None = None,
        pool_factor: int = 1,
        protected_tokens: int = 1,
        convert_to_tensor: bool = False,
        padding: bool = False,
        precision: Literal["float32"] = "float32",
        device: object = None,
        normalize_embeddings: bool = True,
    ) -> Any:
        """Token embeddings of texts.

        Args:
            inputs: a text, several, or lists of texts.
            prompt_name: None only. The prompts of a checkpoint are always used.
            prompt: None only.
            batch_size: has no effect.
            show_progress_bar: as `show_progress` of `ColBERT.encode_query`.
            output_value: "token_embeddings" only.
            convert_to_numpy: numpy arrays instead of tensors.
            task: "query" or "document", as sentence-transformers says it.
            is_query: True or False, as PyLate says it.
            sentences: PyLate's name of `inputs`.
            pool_factor: pool this many token embeddings of documents to one (`mlx_colbert.model.pooling`).
            protected_tokens: as for `pool`.
            convert_to_tensor: has no effect. The result is never one large tensor.
            padding: False only.
            precision: "float32" only.
            device: has no effect.
            normalize_embeddings: has no effect. Rows have unit length.

        Returns:
            (n_tokens, D) float32 for one text, a list of these for several, a list of lists for lists of
            texts.

        Raises:
            InputError: if neither `task` nor `is_query` is given, a text is not a string, or an argument has
                a value that cannot be used.
        """
        only = {
            "prompt": (prompt, None),
            "prompt_name": (prompt_name, None),
            "output_value": (output_value, "token_embeddings"),
            "precision": (precision, "float32"),
            "padding": (padding, False),
        }
        for name, (value, usable) in only.items():
            if value != usable:
                raise InputError(f"{name} is {value!r}. Only {usable!r} is possible here.")
        if is_query is not None:
            task = "query" if is_query else "document"
        if task not in ("query", "document"):
            raise InputError('give task="query" or task="document", or is_query=True or False.')
        texts = sentences if inputs is None else inputs
        if texts is None:
            raise InputError("there are no texts. Give inputs.")
        factor = 1 if task == "query" else pool_factor

        def encoded(part: list[str]) -> list[Any]:
            if task == "query":
                embeddings = self.model.encode_query(part, show_progress=show_progress_bar)
            else:
                embeddings = self.model.encode_document(part, show_progress=show_progress_bar)
            arrays = pool(embeddings, factor, protected_tokens=protected_tokens)
            return [array.copy() if convert_to_numpy else torch.tensor(array) for array in arrays]

        if isinstance(texts, str):
            return encoded([texts])[0]
        listed: list[Any] = list(texts)
        if listed and all(isinstance(item, list | tuple) for item in listed):
            return [encoded(check_texts(part, task, may_be_blank=True, may_be_empty=True)) for part in listed]
        return encoded(check_texts(listed, task, may_be_blank=True, may_be_empty=True))

    def similarity(self, embeddings1: Embeddings, embeddings2: Embeddings, **options: Any) -> torch.Tensor:
        """Scores of all queries with all documents: (n_queries, n_documents) float32.

        Args:
            embeddings1: queries. Rows of zeros in a padded (N, L, D) tensor are padding.
            embeddings2: documents.
            options: have no effect.
        """
        return torch.from_numpy(self.model.similarity(_unpadded(embeddings1), _unpadded(embeddings2)))

    def similarity_pairwise(
        self, embeddings1: Embeddings, embeddings2: Embeddings, **options: Any
    ) -> torch.Tensor:
        """Scores of query i with document i: (N,) float32. The arguments are those of `similarity`."""
        scores = self.model.similarity_pairwise(_unpadded(embeddings1), _unpadded(embeddings2))
        return torch.from_numpy(scores)


class _ModelCard:
    """Receives what evaluators write into the model card of a model."""

    def set_evaluation_metrics(self, *args: Any, **options: Any) -> None:
        """Forget it."""


def _unpadded(embeddings: Embeddings) -> Embeddings:
    """Token embeddings without the rows of zeros that fill a padded tensor up."""
    if isinstance(embeddings, TokenEmbeddings) or len(getattr(embeddings, "shape", ())) != 3:
        return embeddings
    rows: list[Array] = [text[(text != 0).any(axis=1)] for text in as_array(embeddings)]
    return rows
