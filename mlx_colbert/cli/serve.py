"""`mlx-colbert serve`."""

from __future__ import annotations

import argparse
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_colbert.cli.arguments import configurable, location, positive
from mlx_colbert.cli.output import as_json, note, write
from mlx_colbert.cli.render import Result
from mlx_colbert.errors import DaemonError, InputError, MissingExtraError

if TYPE_CHECKING:
    from mlx_colbert.engine.engine import Engine
    from mlx_colbert.server.settings import Settings

EXAMPLE = "mlx-colbert serve --port 8765"
JSON_KEYS = """two lines: {"event": "serving", "url", "pid"} when it answers, and {"event": "ended",
"url", "pid"}"""

# MLX_COLBERT_API_KEY is the key of somebody else's server, for `ask`.
_KEY_VARIABLE = "MLX_COLBERT_SERVER_KEY"
_SHORTEST_KEY = 16
# Seconds. What was accepted has 10 of them.
_END_S = 20.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the address, the model, and who may ask."""
    parser.add_argument(
        "--host", default="127.0.0.1", help="the address to listen at; others than this machine's need a key"
    )
    parser.add_argument("--port", type=_port, default=8765, help="0 takes a free one (default: 8765)")
    model = parser.add_argument(
        "--model",
        metavar="MODEL",
        type=location,
        help="the model of rerank and embeddings, loaded at once (default: that of collections, when needed)",
    )
    configurable(model, "model")
    llm = parser.add_argument(
        "--llm", metavar="LLM", type=location, help="the language model of answers, as for ask"
    )
    endpoint = parser.add_argument(
        "--endpoint", metavar="URL", help="the server of the language model, as for ask"
    )
    configurable(llm, "llm")
    configurable(endpoint, "endpoint")
    parser.add_argument(
        "--api-key-file",
        metavar="FILE",
        type=location,
        help=f"a file with the key that each request must have, or the variable {_KEY_VARIABLE}",
    )
    parser.add_argument(
        "--allowed-host",
        metavar="NAME",
        action="append",
        default=[],
        help="a name of this machine that clients may ask for; may be repeated",
    )
    parser.add_argument(
        "--mcp-allow-write",
        action="store_true",
        help="let assistants at /mcp bring collections in step (tool sync)",
    )
    parser.add_argument(
        "--workers", type=positive, metavar="N", help="requests to work on at once (default: twice the cores)"
    )


def run(args: argparse.Namespace) -> Result:
    """Serve until Ctrl-C or SIGTERM."""
    try:
        from mlx_colbert.server import serving
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "mlx_colbert":
            raise
        raise MissingExtraError("mlx-colbert serve", "server") from error
    from mlx_colbert.daemon.log import Log
    from mlx_colbert.engine.engine import Engine
    from mlx_colbert.engine.jobs import Jobs
    from mlx_colbert.server.app import make_app
    from mlx_colbert.server.for_assistants import for_assistants
    from mlx_colbert.server.log import Lines, job_failures

    settings = _settings(args)
    # The current folder changes later.
    with closing(serving.listening(settings)) as listening, closing(Lines(Log(None).write)) as log:
        url = serving.url_of(listening)
        engine = Engine(n_workers=args.workers)
        write_log = (lambda line: None) if args.quiet else log.write
        result = {"url": url, "pid": os.getpid()}
        with _ended_in_time() as ending, engine.running():
            jobs = Jobs(job_failures(write_log))
            app = make_app(
                engine,
                settings,
                jobs=jobs,
                mounted=for_assistants(engine, jobs, may_write=args.mcp_allow_write),
                write_log=write_log,
            )
            with serving.serving(app, settings, listening), ending:
                if settings.preload:
                    app.state.model.load()
                if args.json:
                    write(as_json({"event": "serving", **result}))
                elif not args.quiet:
                    write(f"Serving {url} (Ctrl-C ends it)")
                _answer_commands(engine, url)
    return {"event": "ended", **result}


@contextmanager
def _ended_in_time() -> Iterator[AbstractContextManager[None]]:
    """A block, and the part of it that a signal ends. After that part, the rest cannot take for ever."""
    last = threading.Timer(_END_S, os._exit, [0])
    last.daemon = True

    @contextmanager
    def ended() -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            pass
        finally:
            last.start()

    try:
        yield ended()
    finally:
        last.cancel()


def _answer_commands(engine: Engine, url: str) -> None:
    """Be the daemon too, until this process is told to end."""
    from mlx_colbert.cli.daemon import seconds_of
    from mlx_colbert.cli.program import reply
    from mlx_colbert.daemon.client import told
    from mlx_colbert.daemon.place import DaemonPlace
    from mlx_colbert.daemon.process import stop
    from mlx_colbert.daemon.server import IdleTimes, serve

    place = DaemonPlace()
    idle = IdleTimes(seconds_of("model_idle_minutes", IdleTimes().model_s), None)
    reason = ""
    try:
        before = told("status", place) or {}
        if before and before.get("url") is None:
            stop(place)
        ending = serve(reply, place, idle, engine.models, is_detached=False, url=url)
        if ending == "stopped":
            return
        if ending == "taken":
            reason = f"{before.get('url') or 'a daemon'} answers the commands of this user."
    except (DaemonError, OSError) as error:
        reason = str(error)
    if reason:
        note(f"mlx-colbert: {reason} This process answers HTTP alone.")
    threading.Event().wait()


def _settings(args: argparse.Namespace) -> Settings:
    from mlx_colbert.collection.settings import DEFAULT_MODEL
    from mlx_colbert.configuration import refresh_limit
    from mlx_colbert.server.settings import Settings

    model, llm = map(_lasting, (args.model, args.llm))
    return Settings(
        host=args.host,
        port=args.port,
        model=model or DEFAULT_MODEL,
        preload=model is not None,
        api_key=_key(args.api_key_file),
        allowed_hosts=tuple(args.allowed_host),
        refresh_s=refresh_limit(),
        llm=llm,
        endpoint=args.endpoint,
    )


def _lasting(model: str | None) -> str | None:
    """The hub id of a model, or the absolute path of its folder: commands change the current folder."""
    return str(Path(model).absolute()) if model is not None and Path(model).is_dir() else model


def _key(path: str | None) -> str | None:
    """The key in a file or in the environment. None: there is none."""
    if path is None:
        where, text = f"environment variable {_KEY_VARIABLE}", os.environ.get(_KEY_VARIABLE)
        if not text:
            return None
    else:
        where, text = path, Path(path).read_text(encoding="utf-8", errors="replace")
    key = text.strip()
    if len(key) < _SHORTEST_KEY or not (key.isascii() and key.isprintable()) or " " in key:
        raise InputError(
            f"{where}: a key has {_SHORTEST_KEY} or more letters, digits and signs, without spaces. "
            "Make one: openssl rand -hex 32"
        )
    return key


def _port(text: str) -> int:
    if not (text.isdecimal() and text.isascii() and len(text) < 6 and int(text) < 1 << 16):
        raise argparse.ArgumentTypeError("must be a number of 0 to 65535")
    return int(text)


def render(result: Result, args: argparse.Namespace) -> str | None:
    """The last line."""
    return None if args.quiet else "Ended."
