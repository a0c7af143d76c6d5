#!/usr/bin/env python3
"""Story 1: 300 calls at a time to a server that nobody here wrote. `python3 benches/story1.py`

FastAPI on uvicorn takes three seconds for each of 1,000 POSTs, and outbound, hyper-util, reqwest, httpx and aiohttp send them, as they
come and with room for 300 connections. Then the same server with blocking handlers: 40 threads, a second for each call, and five for its
answer; where the client has a limit, waiting for a turn is not counted. For each client: what failed, how long it took, what CPU the
client's process took (without what it took to start), the most memory that it had, and how many sockets the server saw.

Needs Rust, and Python packages that it installs from the registry into `target/story1`; where those cannot be had it says so, and
that is all it does. Exits with 1 if a call of outbound's failed that should not have.
"""

import argparse
import asyncio
import collections
import json
import os
import pathlib
import platform
import socket
import subprocess
import sys
import threading
import time
import venv

ROOT = pathlib.Path(__file__).resolve().parent.parent
VENV = ROOT / "target" / "story1"
PYTHON = VENV / "bin" / "python"
PACKAGES = ["fastapi", "uvicorn", "httpx", "aiohttp"]

AS_IS = "as it comes"
# What runs, with which options, and whether a failure is ours to answer for.
ASLEEP = [
    ("outbound", AS_IS, ["outbound"], True),
    ("outbound", "300 connections", ["outbound", "--connections", "300"], True),
    ("hyper-util", AS_IS, ["hyper-util"], False),
    ("reqwest", AS_IS, ["reqwest"], False),
    ("httpx", AS_IS, ["httpx"], False),
    ("httpx", "300 connections", ["httpx", "--connections", "300"], False),
    ("aiohttp", AS_IS, ["aiohttp"], False),
    ("aiohttp", "300 connections", ["aiohttp", "--connections", "300"], False),
]
WIDE = ["--connections", "300", "--timeout", "5"]
BLOCKING = [
    ("outbound", "no limit", ["outbound", *WIDE], False),
    ("outbound", "40 at once", ["outbound", *WIDE, "--limit", "40"], True),
    ("outbound", "AIMD", ["outbound", *WIDE, "--limit", "aimd"], False),
    ("outbound", "Vegas", ["outbound", *WIDE, "--limit", "vegas"], False),
    ("outbound", "Gradient2", ["outbound", *WIDE, "--limit", "gradient2"], False),
    ("reqwest", "no limit", ["reqwest", *WIDE], False),
    ("httpx", "no limit", ["httpx", *WIDE], False),
    ("aiohttp", "no limit", ["aiohttp", *WIDE], False),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=300)
    parser.add_argument("--sleep", type=float, default=3.0, help="seconds for a call")
    parser.add_argument("--block", type=float, default=1.0, help="seconds for a blocking call")
    parser.add_argument("--only", choices=["asleep", "blocking"], help="one of the two runs")
    options = parser.parse_args()
    if problem := install():
        print(f"story1: skipped: {problem}")
        return 0
    build = ["cargo", "build", "--release", "--quiet", "--package", "outbound-benches", "--bin", "story1"]
    subprocess.run(build, cwd=ROOT, check=True)

    print(f"{machine()}\n{versions()}")
    calls = f"{options.requests:,} POSTs of 40 kB, {options.concurrency} at a time"
    good = True
    if options.only != "blocking":
        print(f"\n{calls}; asyncio.sleep({options.sleep:g}) for each")
        good &= table(ASLEEP, "asleep", options.sleep, options)
    if options.only != "asleep":
        print(f"\n{calls}, 5 s for the answer; time.sleep({options.block:g}) for each, on 40 threads")
        good &= table(BLOCKING, "blocking", options.block, options)
    return 0 if good else 1


def install():
    """What is in the way, if anything is."""
    try:
        if not PYTHON.exists():
            venv.create(VENV, with_pip=True)
        pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES]
        done = subprocess.run(pip, capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.SubprocessError) as error:
        return f"no environment for Python: {error}"
    return done.stderr.strip().splitlines()[-1] if done.returncode else None


def machine():
    model = platform.processor() or platform.machine()
    try:
        info = pathlib.Path("/proc/cpuinfo").read_text()
        model = next(line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores of {model}, server and client together"


def versions():
    code = "import sys; from importlib.metadata import version as v; print(*(f'{p} {v(p)}' for p in sys.argv[1:]), sep=', ')"
    said = subprocess.run([PYTHON, "-c", code, *PACKAGES], capture_output=True, text=True, check=True)
    lock = (ROOT / "Cargo.lock").read_text().split("[[package]]")
    named = {entry.split('"')[1]: entry.split('"')[3] for entry in lock[1:]}
    rust = ", ".join(f"{name} {named[name]}" for name in ["outbound", "hyper-util", "reqwest"])
    return f"{rust}, {said.stdout.strip()}, Python {platform.python_version()}"


def table(rows, handler, seconds, options):
    print(f"{'client':12}{'':18}{'failed':>8}{'seconds':>9}{'CPU s':>8}{'peak MB':>9}{'sockets':>9}{'at once':>9}")
    good = True
    for name, how, arguments, ours in rows:
        said, usage, seen = measure(handler, seconds, arguments, options)
        failed = sum(said["failures"].values())
        good &= not (ours and failed)
        cpu = usage.ru_utime + usage.ru_stime - said.get("start", 0.0)
        memory = f"{said['peak kB'] / 1000:.0f}" if said["peak kB"] else "?"
        print(
            f"{name:12}{how:18}{failed:>8}{said['seconds']:>9.1f}{cpu:>8.2f}{memory:>9}"
            f"{seen['sockets']:>9}{seen['at once']:>9}",
            *(f"  {count} {why}" for why, count in said["failures"].items()),
            flush=True,
        )
    return good


def measure(handler, seconds, arguments, options):
    """A server and a client, both fresh, and what each has to tell."""
    server = subprocess.Popen(
        [PYTHON, __file__, "serve", str(seconds)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    url = f"http://127.0.0.1:{server.stdout.readline().strip()}/{handler}"
    peer, *rest = arguments
    size = ["--requests", str(options.requests), "--concurrency", str(options.concurrency)]
    if peer in CLIENTS:
        command = [PYTHON, __file__, "call", peer, url, *size, *rest]
    else:
        command = [ROOT / "target/release/story1", url, "--client", peer, *size, *rest]
    quiet = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    client = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=quiet)
    said = client.stdout.read()
    _, status, usage = os.wait4(client.pid, 0)
    client.returncode = os.waitstatus_to_exitcode(status)
    server.stdin.close()
    seen = server.stdout.read()
    server.wait()
    if client.returncode:
        raise SystemExit(f"story1: {peer} ended with {client.returncode}")
    return json.loads(said), usage, json.loads(seen)


# === the server ===


def serve(seconds):
    import uvicorn
    from fastapi import FastAPI
    from uvicorn.protocols.http.h11_impl import H11Protocol

    app = FastAPI()
    seen = {"sockets": 0, "at once": 0}
    sockets = set()

    @app.post("/asleep")
    async def asleep(document: dict):
        await asyncio.sleep(seconds)
        return {"bytes": len(document["image"])}

    @app.post("/blocking")
    def blocking(document: dict):
        time.sleep(seconds)
        return {"bytes": len(document["image"])}

    class Counting(H11Protocol):
        def connection_made(self, transport):
            sockets.add(self)
            seen["sockets"] += 1
            seen["at once"] = max(seen["at once"], len(sockets))
            super().connection_made(transport)

        def connection_lost(self, error):
            sockets.discard(self)
            super().connection_lost(error)

    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    config = uvicorn.Config(app, http=Counting, log_level="critical", timeout_graceful_shutdown=0)
    server = uvicorn.Server(config)

    def until_told():
        sys.stdin.read()
        server.should_exit = True

    threading.Thread(target=until_told, daemon=True).start()
    print(listener.getsockname()[1], flush=True)
    server.run(sockets=[listener])
    print(json.dumps(seen), flush=True)
    # Handlers that nobody waits for any more would be waited for.
    os._exit(0)


# === the peers in Python ===


async def call_with_httpx(options, call_all):
    import httpx

    settings = {}
    if options.connections:
        most = options.connections
        settings["limits"] = httpx.Limits(max_connections=most, max_keepalive_connections=most)
    if options.timeout:
        settings["timeout"] = options.timeout
    start = time.process_time()
    async with httpx.AsyncClient(**settings) as client:

        async def call(document):
            response = await client.post(options.url, content=document, headers=JSON)
            response.raise_for_status()

        return start, await call_all(call)


async def call_with_aiohttp(options, call_all):
    import aiohttp

    settings = {}
    if options.connections:
        settings["connector"] = aiohttp.TCPConnector(limit=options.connections)
    if options.timeout:
        settings["timeout"] = aiohttp.ClientTimeout(total=options.timeout)
    start = time.process_time()
    async with aiohttp.ClientSession(**settings) as client:

        async def call(document):
            async with client.post(options.url, data=document, headers=JSON) as response:
                response.raise_for_status()
                await response.read()

        return start, await call_all(call)


CLIENTS = {"httpx": call_with_httpx, "aiohttp": call_with_aiohttp}
JSON = {"content-type": "application/json"}


def call(arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("client", choices=CLIENTS)
    parser.add_argument("url")
    parser.add_argument("--requests", type=int)
    parser.add_argument("--concurrency", type=int)
    parser.add_argument("--connections", type=int)
    parser.add_argument("--timeout", type=float)
    options = parser.parse_args(arguments)
    document = json.dumps({"image": "x" * 39_987}, separators=(",", ":")).encode()
    failures = collections.Counter()
    numbers = iter(range(options.requests))

    async def caller(call):
        for _ in numbers:
            try:
                await call(document)
            except Exception as error:
                failures[type(error).__name__] += 1

    async def call_all(call):
        begun = time.monotonic()
        await asyncio.gather(*(caller(call) for _ in range(options.concurrency)))
        return time.monotonic() - begun

    start, seconds = asyncio.run(CLIENTS[options.client](options, call_all))
    print(json.dumps({"failures": failures, "seconds": seconds, "start": start, "peak kB": peak()}))


def peak():
    """The most memory that this program has had. What wait4 says of a child begins with what its parent has had."""
    try:
        status = pathlib.Path("/proc/self/status").read_text()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), None)


if __name__ == "__main__":
    match sys.argv[1:2]:
        case ["serve"]:
            serve(float(sys.argv[2]))
        case ["call"]:
            call(sys.argv[2:])
        case _:
            sys.exit(main())
