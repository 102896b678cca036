"""Lets the end-to-end tests drive a client.

Commands are JSON lines on the standard input: {"id": 1, "command": "join", ...} is answered on the
standard output by {"id": 1, "result": ...} or {"id": 1, "error": "..."}. The end of the input is
the end.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

# Bytes of a line.
LONGEST_LINE = 1 << 20

Commands = dict[str, Callable[..., Awaitable[Any]]]


async def serve(commands: Commands) -> None:
    """Carries out the commands until the input ends, side by side."""
    lines = asyncio.StreamReader(limit=LONGEST_LINE)
    protocol = asyncio.StreamReaderProtocol(lines)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    running: set[asyncio.Task[None]] = set()
    while line := await lines.readline():
        task = asyncio.create_task(_run(commands, line.decode()))
        running.add(task)
        task.add_done_callback(running.discard)


async def _run(commands: Commands, line: str) -> None:
    request = json.loads(line)
    answer: dict[str, Any] = {"id": request.pop("id")}
    try:
        answer["result"] = await commands[request.pop("command")](**request)
    except Exception as error:  # The test shows it.
        answer["error"] = f"{type(error).__name__}: {error}"
    print(json.dumps(answer), flush=True)
