"""Put a real `mlx-colbert serve` under load, and say how it behaves: latency, memory, refusals, losses.

    python examples/bench/serving.py --model demo/minilm --seconds 60 --clients 32

The phases, one after the other, on one server:

- calm: clients search, rerank and add documents, each as fast as it is answered.
- overload: 4 times as many. They ask again 0.1 s after they were refused.
- after: as calm. It shows whether the server has recovered.
- rude: as calm, beside clients that send headers slowly, too much, too little, or nonsense.

At the end, every document that the server acknowledged must be there. Needs Linux, `mlx-colbert[server]` and
httpx.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
from served import Served, paragraphs, percentile, served

KINDS = ("search", "rerank", "add")
REFUSED_S = 0.1
RERANK_DOCUMENTS = 8
N_LORIS = 50
Request = tuple[str, dict[str, Any]]


class Clients:
    """Clients that ask without a break, and what they were answered."""

    def __init__(self, url: str, texts: list[str]) -> None:
        self._url, self._texts = url, texts
        self._number = 0
        self.acknowledged: list[str] = []

    async def run(self, n_clients: int, seconds: float) -> dict[str, Any]:
        """Let clients ask for so many seconds; their numbers."""
        took: dict[str, list[float]] = {kind: [] for kind in KINDS}
        statuses: Counter[str] = Counter()
        retry_after = []
        deadline = time.monotonic() + seconds

        async def client(number: int) -> None:
            chance = random.Random(number)
            async with httpx.AsyncClient(base_url=self._url, timeout=120) as http:
                while time.monotonic() < deadline:
                    kind = chance.choices(KINDS, (60, 25, 15))[0]
                    path, body = self._request(kind, chance)
                    begun = time.perf_counter()
                    try:
                        answer = await http.post(path, json=body)
                    except httpx.HTTPError as error:
                        statuses[type(error).__name__] += 1
                        continue
                    statuses[str(answer.status_code)] += 1
                    if answer.status_code == 200:
                        took[kind].append(time.perf_counter() - begun)
                        if kind == "add":
                            self.acknowledged += answer.json()["ids"]
                    elif answer.status_code == 429:
                        retry_after.append(answer.headers.get("retry-after"))
                        await asyncio.sleep(REFUSED_S)

        begun = time.monotonic()
        await asyncio.gather(*map(client, range(n_clients)))
        took_s = time.monotonic() - begun
        every = [seconds for kind in KINDS for seconds in took[kind]]
        return {
            "clients": n_clients,
            "seconds": round(took_s, 1),
            "statuses": dict(statuses),
            "refused_without_retry_after": retry_after.count(None),
            "answers_per_s": round(len(every) / took_s, 1),
            "ms": {kind: _times(seconds) for kind, seconds in {"all": every, **took}.items()},
        }

    def _request(self, kind: str, chance: random.Random) -> Request:
        query = " ".join(chance.choice(self._texts).split()[:8])
        if kind == "search":
            return "/search", {"query": query, "k": 10}
        if kind == "rerank":
            return "/rerank", {"query": query, "documents": chance.choices(self._texts, k=RERANK_DOCUMENTS)}
        self._number += 1
        document = {"id": f"bench-{self._number}", "text": chance.choice(self._texts)}
        return "/collections/added/documents", {"documents": [document]}


def _times(seconds: list[float]) -> dict[str, float]:
    return {
        "n": len(seconds),
        **{f"p{percent}": round(1000 * percentile(seconds, percent), 1) for percent in (50, 95, 99)},
    }


@asynccontextmanager
async def rude(url: str) -> AsyncIterator[Counter[str]]:
    """A block beside which rude clients connect. It has the number of connections of each kind."""
    host, port = url.removeprefix("http://").split(":")
    counts: Counter[str] = Counter()
    head = b"POST /search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"

    async def loris(out: asyncio.StreamWriter) -> None:
        out.write(head)
        while True:
            out.write(b"X: y\r\n")
            await out.drain()
            await asyncio.sleep(1)

    async def huge(out: asyncio.StreamWriter) -> None:
        out.write(head + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(64):
            out.write(b"40000\r\n" + b"[" * 0x40000 + b"\r\n")
            await out.drain()

    async def truncated(out: asyncio.StreamWriter) -> None:
        out.write(head + b'Content-Length: 1000\r\n\r\n{"query": "')
        await out.drain()

    async def malformed(out: asyncio.StreamWriter) -> None:
        out.write(os.urandom(2000) if counts["malformed"] % 2 else head + b"Content-Length: 7\r\n\r\n{nonsen")
        await out.drain()
        await asyncio.sleep(0.1)

    async def again(send: Callable[[asyncio.StreamWriter], Awaitable[None]], pause_s: float) -> None:
        while True:
            counts[send.__name__] += 1
            with contextlib.suppress(OSError):
                _, out = await asyncio.open_connection(host, int(port))
                try:
                    await send(out)
                finally:
                    out.transport.abort()
            await asyncio.sleep(pause_s)

    sends = [(huge, 0.5), (truncated, 0.1), (malformed, 0.1), *[(loris, 0.0)] * N_LORIS]
    tasks = [asyncio.ensure_future(again(*one)) for one in sends]
    try:
        yield counts
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def measured(server: Served, args: argparse.Namespace) -> dict[str, Any]:
    """All phases of a run."""
    texts = paragraphs(args.folder)
    clients = Clients(server.url, texts)
    phases: dict[str, Any] = {}

    async def phase(name: str, n_clients: int) -> None:
        before_mb, before_s = server.memory_mb(), server.cpu_s()
        found = await clients.run(n_clients, args.seconds)
        found["cpu_s"] = round(server.cpu_s() - before_s, 1)
        found["memory_mb"] = [round(before_mb), round(server.memory_mb())]
        found["load"] = [round(value, 1) for value in os.getloadavg()]
        phases[name] = found

    await phase("calm", args.clients)
    await phase("overload", 4 * args.clients)
    await phase("after", args.clients)
    async with rude(server.url) as counts:
        await phase("rude", args.clients)
    phases["rude"]["rude_clients"] = dict(counts)
    there = await asyncio.to_thread(_added, server.url)
    return {
        "phases": phases,
        "acknowledged": len(clients.acknowledged),
        "lost": sorted(set(clients.acknowledged) - there),
    }


def _added(url: str) -> set[str]:
    """The ids of all documents that were added."""
    found: set[str] = set()
    query: dict[str, Any] = {"limit": 1000}
    while True:
        answer = httpx.get(f"{url}/collections/added/documents", params=query, timeout=120).json()
        found |= {document["id"] for document in answer["documents"]}
        if answer["next"] is None:
            return found
        query["after"] = answer["next"]


def _make_collections(url: str, args: argparse.Namespace) -> None:
    with httpx.Client(base_url=url, timeout=600) as http:
        for body in ({"folder": str(args.folder.absolute()), "name": "files"}, {"name": "added"}):
            answer = http.post("/collections", json=body)
            answer.raise_for_status()
            events = http.get(f"/jobs/{answer.json()['job']['id']}/events").text
            if '"state": "done"' not in events:
                raise SystemExit(f"the collection cannot be made: {events[-500:]}")


def table(result: dict[str, Any]) -> str:
    """The phases as a Markdown table."""
    lines = [
        "| phase | clients | answers/s | p50, p95, p99 in ms | search | rerank | add | refused | MB | load |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, found in result["phases"].items():
        times = [
            ", ".join(f"{found['ms'][kind][f'p{percent}']:,.0f}" for percent in (50, 95, 99))
            for kind in ("all", *KINDS)
        ]
        refused = found["statuses"].get("429", 0)
        first, last = found["memory_mb"]
        lines.append(
            f"| {name} | {found['clients']} | {found['answers_per_s']:.1f} | {' | '.join(times)} "
            f"| {refused:,} | {first} to {last} | {found['load'][0]:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, and print a table and JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="a model folder")
    parser.add_argument(
        "--folder", type=Path, default=Path("docs"), help="Markdown files that are searched (default: docs)"
    )
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each phase")
    parser.add_argument("--log", type=Path, help="the output of the server (default: thrown away)")
    args = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    model = str(args.model.absolute())
    command = [sys.executable, "-m", "mlx_colbert", "serve", "--port", str(port), "--model", model]
    with tempfile.TemporaryDirectory() as home:
        log = args.log or Path(home) / "serve.log"
        with served("mlx-colbert", command, port, log, home=Path(home)) as server:
            _make_collections(server.url, args)
            result = asyncio.run(measured(server, args))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    names = ("mlx-colbert", "fastapi", "uvicorn", "numpy")
    result["on"] = ", ".join([machine, *(f"{name} {version(name)}" for name in names)])
    print(f"{result['on']}; {args.model.name}\n\n{table(result)}\n")
    print(json.dumps(result, indent=1))
    failures = {
        "documents were lost": bool(result["lost"]),
        "an answer was a failure of the server": any(
            status not in ("200", "429")
            for phase in result["phases"].values()
            for status in phase["statuses"]
        ),
        "a refusal had no Retry-After": any(
            phase["refused_without_retry_after"] for phase in result["phases"].values()
        ),
    }
    if any(failures.values()):
        raise SystemExit("; ".join(reason for reason, is_true in failures.items() if is_true))


if __name__ == "__main__":
    main()
