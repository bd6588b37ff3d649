"""Load over raw keep-alive connections, in one thread: the client shares the cores with what it measures.

``on_schedule`` is an open loop: requests leave at a fixed rate, whether or not earlier ones were answered,
and a latency counts from the moment that the schedule gave, so a server that stalls is charged for everybody
who had to wait (no coordinated omission). ``in_turns`` is a closed loop: how many a second fit through.

Promises: every request that was due is in the result, with status 0 when its connection broke.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import uvloop

BROKEN = 0
DRAIN_SECONDS = 60.0
LEAD_SECONDS = 0.05
# uvicorn closes what is idle for five seconds; a request must not meet that.
FRESH_SECONDS = 2.0
_HEAD_END, _LENGTH = b"\r\n\r\n", b"\r\ncontent-length: "

MakeRequest = Callable[[int], bytes]
"""Returns the bytes of the n-th request."""


@dataclass(frozen=True)
class Answer:
    """What came back for the n-th request; ``seconds`` counts from when it was due."""

    number: int
    status: int
    seconds: float
    body: bytes


@dataclass(frozen=True)
class Load:
    """All answers of one run, and how long the run took."""

    answers: list[Answer]
    seconds: float

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.answers) / self.seconds

    @property
    def milliseconds(self) -> list[float]:
        """The latencies."""
        return [1000 * answer.seconds for answer in self.answers]

    def num_other_than(self, status: int) -> int:
        """How many answers had another status than they should."""
        return sum(answer.status != status for answer in self.answers)


def request_bytes(method: str, path: str, *, headers: dict[str, str], body: bytes = b"") -> bytes:
    """Return a whole HTTP/1.1 request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + _HEAD_END + body


def on_schedule(port: int, make: MakeRequest, *, rate: float, seconds: float) -> Load:
    """Send ``rate`` requests a second for some seconds, evenly spaced, and wait for all answers."""
    return uvloop.run(_Run(port, make).on_schedule(rate=rate, num=round(rate * seconds)))


def in_turns(port: int, make: MakeRequest, *, num_clients: int, seconds: float) -> Load:
    """Let each of ``num_clients`` connections send its next request when the last one was answered."""
    return uvloop.run(_Run(port, make).in_turns(num_clients=num_clients, seconds=seconds))


class _Connection(asyncio.Protocol):
    """One connection, which carries one request at a time."""

    def __init__(self, on_answer: Callable[["_Connection", Answer], None]) -> None:
        self._on_answer = on_answer
        self._number = 0
        self._due_at: float | None = None
        self._data = b""
        self._used_at = time.monotonic()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not instances of asyncio's classes.
        self._transport = cast("asyncio.Transport", transport)

    @property
    def is_fresh(self) -> bool:
        """Whether it is open and the server will not close it right now."""
        is_recent = time.monotonic() - self._used_at < FRESH_SECONDS
        return is_recent and not self._transport.is_closing()

    def send(self, request: bytes, *, number: int, due_at: float) -> None:
        self._number, self._due_at, self._data = number, due_at, b""
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head_end = self._data.find(_HEAD_END)
        if head_end < 0:
            return
        place = self._data.lower().find(_LENGTH, 0, head_end)
        length = int(self._data[place + len(_LENGTH) :].split(b"\r", 1)[0]) if place >= 0 else 0
        body = self._data[head_end + len(_HEAD_END) :]
        if len(body) >= length:
            self._settle(int(self._data[9:12]), body)

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle(BROKEN, b"")

    def close(self) -> None:
        self._transport.close()

    def _settle(self, status: int, body: bytes) -> None:
        if self._due_at is None:
            return
        self._used_at = time.monotonic()
        answer = Answer(self._number, status, self._used_at - self._due_at, body)
        self._due_at = None
        self._on_answer(self, answer)


class _Run:
    """One run: requests that are due, connections that are free, and the answers so far."""

    def __init__(self, port: int, make: MakeRequest) -> None:
        self._port, self._make = port, make
        self._answers: list[Answer] = []
        self._free: list[_Connection] = []
        self._due: deque[float] = deque()
        self._num_sent = 0
        self._num_opening = 0
        self._turns_until = 0.0

    async def on_schedule(self, *, rate: float, num: int) -> Load:
        began = time.monotonic() + LEAD_SECONDS
        for number in range(num):
            due_at = began + number / rate
            if (early := due_at - time.monotonic()) > 0:
                await asyncio.sleep(early)
            self._is_due(due_at)
        return await self._drained(num, began=began)

    async def in_turns(self, *, num_clients: int, seconds: float) -> Load:
        began = time.monotonic()
        self._turns_until = began + seconds
        for _ in range(num_clients):
            self._is_due(began)
        await asyncio.sleep(seconds)
        return await self._drained(self._num_sent, began=began)

    async def _drained(self, num: int, *, began: float) -> Load:
        until = time.monotonic() + DRAIN_SECONDS
        while len(self._answers) < num and time.monotonic() < until:
            await asyncio.sleep(0.001)
        load = Load([*self._answers], time.monotonic() - began)
        assert len(load.answers) == num, f"{num - len(load.answers)} answers never came"
        for connection in self._free:
            connection.close()
        return load

    def _is_due(self, due_at: float) -> None:
        """Send on a free connection, else as soon as there is one."""
        self._due.append(due_at)
        connection = self._fresh_one()
        if connection is not None:
            self._send(connection)
        elif self._num_opening < len(self._due):
            self._num_opening += 1
            self._opening = asyncio.ensure_future(self._open())

    def _fresh_one(self) -> _Connection | None:
        while self._free:
            connection = self._free.pop()
            if connection.is_fresh:
                return connection
            connection.close()
        return None

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: _Connection(self._answered), "127.0.0.1", self._port
        )
        self._num_opening -= 1
        self._send(connection)

    def _send(self, connection: _Connection) -> None:
        if not self._due:
            self._free.append(connection)
            return
        number, self._num_sent = self._num_sent, self._num_sent + 1
        connection.send(self._make(number), number=number, due_at=self._due.popleft())

    def _answered(self, connection: _Connection, answer: Answer) -> None:
        self._answers.append(answer)
        if (now := time.monotonic()) < self._turns_until:
            self._due.append(now)
        if answer.status != BROKEN:
            self._send(connection)
