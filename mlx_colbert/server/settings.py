"""What a server is started with."""

from __future__ import annotations

from dataclasses import dataclass, field

from mlx_colbert.collection.registry import Registry
from mlx_colbert.collection.settings import DEFAULT_MODEL

__all__ = ["Limits", "Settings"]


@dataclass(frozen=True)
class Limits:
    """The largest requests that are accepted.

    Attributes:
        body_bytes: bytes of a body.
        file_bytes: bytes of the body of a file that is put into a collection.
        json_values: values in the JSON of a body: a check tells of each one that is wrong.
        json_depth: how deep they may be nested.
        open_bytes: bytes of the bodies of all requests that are not answered yet.
        n_texts: texts of one request.
        text_chars: characters of one text.
        k: results of a search.
        n_tokens: tokens of all texts of one request, as far as the model reads them.
        n_values: numbers in one answer with embeddings.
        request_s: seconds that one request may take.
        head_s: seconds in which the headers of a request must arrive.
        body_s: seconds in which a body must arrive.
        send_s: seconds that a client may read nothing of an answer.
        n_connections: clients that are connected at the same time.
    """

    body_bytes: int = 8 << 20
    file_bytes: int = 64 << 20
    json_values: int = 20_000
    json_depth: int = 64
    open_bytes: int = 256 << 20
    n_texts: int = 1000
    text_chars: int = 100_000
    k: int = 1000
    n_tokens: int = 1 << 18
    n_values: int = 8 << 20
    request_s: float = 60.0
    head_s: float = 10.0
    body_s: float = 30.0
    send_s: float = 30.0
    n_connections: int = 512


@dataclass(frozen=True)
class Settings:
    """What a server is started with. It is read once, and never from a request.

    Attributes:
        host: the address that it listens at.
        port: the port. 0: any that is free.
        model: the model of rerank and embeddings: a folder, as an absolute path, or a hub id.
        preload: whether the server is ready only after the caller of `make_app` has loaded the model.
        api_key: the key that each request must have. None: no key is needed.
        allowed_hosts: names in the Host header that are accepted beside the address and localhost.
        limits: the largest requests that are accepted.
        registry: where the collections are.
        refresh_s: the most seconds that a search looks for changed files.
        llm: the language model of answers, as for `open_language_model`.
        endpoint: the server of the language model, if it has one.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    model: str = DEFAULT_MODEL
    preload: bool = False
    api_key: str | None = field(default=None, repr=False)
    allowed_hosts: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    registry: Registry = field(default_factory=Registry)
    refresh_s: float = 1.0
    llm: str | None = None
    endpoint: str | None = None
