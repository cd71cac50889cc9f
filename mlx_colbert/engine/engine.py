"""The engine: many callers, one set of models, one thread that encodes, and a bounded number of requests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from mlx_colbert.engine.places import Places
from mlx_colbert.kernels.threads import one_blas_thread
from mlx_colbert.model.kept import KeptModels, keeping
from mlx_colbert.model.shared_encoder import SharedEncoder, sharing

__all__ = ["Engine"]


def _usual_workers() -> int:
    # Half of them compute scores or read while the others wait for the thread that encodes.
    return max(4, 2 * (os.cpu_count() or 1))


class Engine(Places):
    """Runs the requests of many callers in one process.

    Inside a block of `running`, every model that this process loads stays loaded, and all of them encode in
    one thread. So each function of this package can be called as it is, from any thread.

    Args:
        n_workers: requests that are worked on at the same time. None: twice the cores, at least 4.
        n_waiting: requests that may wait for a worker.

    Attributes:
        models: the models that are loaded.
        encoder: the thread that encodes.
        n_workers: requests that are worked on at the same time.

    >>> engine = Engine()
    >>> with engine.running():
    ...     engine.submit(lambda: 6 * 7).result()
    42
    """

    def __init__(self, *, n_workers: int | None = None, n_waiting: int = 64) -> None:
        self._has_run = False
        self.models: KeptModels = KeptModels()
        self.encoder: SharedEncoder = SharedEncoder()
        super().__init__("mlx-colbert-worker", n_workers=n_workers or _usual_workers(), n_waiting=n_waiting)

    @contextmanager
    def running(self) -> Iterator[None]:
        """A block in which the models of this process are those of the engine. It ends what was accepted.

        Raises:
            RuntimeError: in a second block: the threads of an engine end with the first.
        """
        if self._has_run:
            raise RuntimeError("this engine has run already. Make another one: Engine().")
        self._has_run = True
        try:
            # Also for small products outside the kernels: the threads of BLAS would spin beside ours.
            with one_blas_thread(), keeping(self.models), sharing(self.encoder):
                try:
                    yield
                finally:
                    self.finish()
        finally:
            self.encoder.close()
