"""`mlx-colbert daemon`."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from mlx_colbert.cli.render import Result, printable
from mlx_colbert.errors import DaemonError

EXAMPLE = "mlx-colbert daemon start"
JSON_KEYS = """{"running", "started", "stopped", "socket", "log", "pid", "version", "package", "began",
"answered", "waiting", "models": [names], "idle_s", "model_idle_s", "daemon_idle_s",
"url"}; all from "pid" on are
null if no daemon runs, or ran; seconds are null for never; url is null without `mlx-colbert serve`"""

_KEYS = ("pid", "began", "answered", "waiting", "models", "idle_s", "model_idle_s", "daemon_idle_s", "url")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to do."""
    parser.add_argument(
        "action",
        choices=["start", "stop", "status", "run"],
        help="start a daemon in the background, stop it, say how it is, or run as a daemon in the foreground",
    )
    # The standard error is the log.
    parser.add_argument("--detached", action="store_true", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> Result:
    """Start or stop the daemon, or ask it how it is."""
    from mlx_colbert.daemon.client import told
    from mlx_colbert.daemon.place import DaemonPlace

    place = DaemonPlace()
    if args.action == "run":
        return _result(place, None, stopped=_served(place, is_detached=args.detached))
    from mlx_colbert.daemon.process import start, stop

    if args.action == "start":
        status, is_new = start(place)
        return _result(place, status, running=True, started=is_new)
    if args.action == "stop":
        status_before = stop(place)
        return _result(place, status_before, stopped=status_before is not None)
    status_now = told("status", place)
    return _result(place, status_now, running=status_now is not None)


def _result(place: Any, status: Any, **done: bool) -> Result:
    status = status or {}
    identity = status.get("identity") or {}
    return {
        "running": False,
        "started": False,
        "stopped": False,
        **done,
        "socket": str(place.socket),
        "log": str(place.log),
        **{key: status.get(key) for key in _KEYS},
        "version": identity.get("version"),
        "package": identity.get("package"),
    }


def _served(place: Any, *, is_detached: bool) -> bool:
    from mlx_colbert.cli.program import reply
    from mlx_colbert.daemon.server import IdleTimes, serve
    from mlx_colbert.engine.engine import Engine

    engine, usual = Engine(), IdleTimes()
    idle = IdleTimes(
        seconds_of("model_idle_minutes", usual.model_s), seconds_of("daemon_idle_minutes", usual.daemon_s)
    )
    with engine.running():
        ending = serve(reply, place, idle, engine.models, is_detached=is_detached)
    if ending != "taken":
        return True
    if is_detached:
        # Two were started at once.
        sys.exit(0)
    raise DaemonError(place.lock, "another daemon runs. Stop it: mlx-colbert daemon stop")


def seconds_of(key: str, usual_s: float | None) -> float | None:
    """The seconds of a setting that is in minutes. None: never."""
    from mlx_colbert.configuration import number_of

    minutes = number_of(key, usual_s and usual_s / 60)
    return None if minutes is None else minutes * 60


def render(result: Result, args: argparse.Namespace) -> str:
    """What was done, or a line for each thing that is known of the daemon."""
    if args.action == "start":
        done = "Started" if result["started"] else f"{_server(result) or 'It'} runs already:"
        return f"{done} process {result['pid']}. It keeps models in memory."
    if args.action in ("stop", "run"):
        if not result["stopped"]:
            return "No daemon runs."
        server = _server(result)
        return f"Stopped. {server} has ended." if server else "Stopped."
    if not result["running"]:
        return "No daemon runs. Start it: mlx-colbert daemon start"
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(result["began"]))
    idle = [f"{result['idle_s']:,.0f} s"]
    model_s, daemon_s = result["model_idle_s"], result["daemon_idle_s"]
    idle += ["models stay" if model_s is None else f"models are let go after {_minutes(model_s)}"]
    idle += ["it does not end by itself" if daemon_s is None else f"it ends after {_minutes(daemon_s)}"]
    lines = {
        "process": f"{result['pid']}, version {result['version']}, since {began}",
        "answered": f"{result['answered']:,}, waiting: {result['waiting']:,}",
        "idle": "; ".join(idle),
        "models": ", ".join(result["models"]) or "none in memory",
        **({"page": result["url"]} if result["url"] else {}),
        "socket": result["socket"],
        "log": result["log"],
    }
    return "\n".join(f"{name:<10}{printable(value)}" for name, value in lines.items())


def _server(result: Result) -> str | None:
    """What to call the process if it is a server. None: it is a daemon alone."""
    return f"The server at {printable(result['url'])} (mlx-colbert serve)" if result["url"] else None


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:,.4g} min"
