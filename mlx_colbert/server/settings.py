"""What a server is started with."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Limits", "Settings"]


@dataclass(frozen=True)
class Limits:
    """The largest requests that are accepted.

    Attributes:
        body_bytes: bytes of a body.
        file_bytes: bytes of the body of a file that is put into a collection.
        n_texts: texts of one request.
        text_chars: characters of one text.
        k: results of a search.
        request_s: seconds that one request may take.
    """

    body_bytes: int = 8 << 20
    file_bytes: int = 64 << 20
    n_texts: int = 1000
    text_chars: int = 100_000
    k: int = 1000
    request_s: float = 60.0


@dataclass(frozen=True)
class Settings:
    """What a server is started with. It is read once, and never from a request.

    Attributes:
        host: the address that it listens at.
        port: the port. 0: any that is free.
        model: the model of rerank and embeddings: a folder or hub id.
        api_key: the key that each request must have. None: no key is needed.
        allowed_hosts: names in the Host header that are accepted beside the address and localhost.
        limits: the largest requests that are accepted.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    model: str | None = None
    api_key: str | None = field(default=None, repr=False)
    allowed_hosts: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
