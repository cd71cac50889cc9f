"""The language model of answers. The user chose it when the server was started; a request cannot."""

from __future__ import annotations

import os
import threading
from importlib.util import find_spec
from pathlib import Path

from mlx_colbert.ask.language_models.choice import KEY_VARIABLE, default_name, open_language_model
from mlx_colbert.ask.language_models.language_model import LanguageModel
from mlx_colbert.errors import BackendError
from mlx_colbert.server.problems import Problem

__all__ = ["ServedLanguageModel"]

_NO_MODEL = (
    "this server has no language model: mlx-lm is missing ({reason}). Start it with that of another server: "
    "mlx-colbert serve --endpoint URL. Or install mlx-lm: pip install 'mlx-colbert[rag]' (on Linux [rag,cpu] "
    "or [rag,cuda])."
)


class ServedLanguageModel:
    """A language model that is opened at the first question.

    Args:
        llm: as for `open_language_model`.
        endpoint: as for `open_language_model`.

    Attributes:
        name: what requests call it: the hub id, the name of the folder, or of the model on its server.
    """

    def __init__(self, llm: str | None, endpoint: str | None) -> None:
        self._llm, self._endpoint = llm, endpoint
        # Commands of the daemon change the environment later.
        self._key = os.environ.get(KEY_VARIABLE) or None
        self._is_server = endpoint is not None or llm == "auto"
        self._lock = threading.Lock()
        self._opened: LanguageModel | None = None
        name = llm or ("default" if endpoint else default_name())
        self.name = Path(name).name if Path(name).is_dir() else name

    @property
    def is_installed(self) -> bool:
        """Whether there is what it needs in this process. A model of a server needs nothing here."""
        return self._is_server or find_spec("mlx_lm") is not None

    def open(self) -> LanguageModel:
        """The model. An engine keeps what was loaded, so only the first call takes long.

        Raises:
            BackendError: if mlx-lm is not installed.
            InputError: if the endpoint cannot be used.
            LanguageModelError: if it cannot be loaded or reached.
        """
        with self._lock:
            if self._opened is not None:
                return self._opened
            try:
                model = open_language_model(self._llm, endpoint=self._endpoint, key=self._key)
            except BackendError as error:
                if not isinstance(error.__cause__, ImportError):
                    raise
                # The advice of the library is for a command that asks.
                raise BackendError(_NO_MODEL.format(reason=error.__cause__)) from error
            if self._is_server:
                # The engine keeps what is loaded in this process, and may let go of it.
                self._opened = model
            return model

    def forget(self) -> None:
        """Look for its server again at the next question: it has failed."""
        with self._lock:
            self._opened = None

    def check(self, name: str | None) -> None:
        """Refuse the name of another model.

        Raises:
            Problem: 404, if it is another one.
        """
        if name not in (None, self.name, self._llm):
            detail = f"Language model {name!r:.200} is not served here. This server has {self.name!r}."
            raise Problem(404, detail)
