"""Load on a server: a closed loop, whose clients wait for answers, and an open one, whose requests come when due.

An open loop's latencies count from the time a request was due, not from when it could be sent, so that a stall of the
server, or of this program, is in them: it cannot be hidden by what was not sent meanwhile ("coordinated omission").
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Coroutine, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from benchmarks.load import BROKEN, NO_ROOM, UNANSWERED, Connection, Load, Transport

Returned = TypeVar("Returned")

_TICK_S = 0.02
_PATIENCE_S = 20.0
_CONNECTIONS = 512  # of an open loop; select(2) takes twice as many


def poisson(rate: float, seconds: float, seed: int) -> npt.NDArray[np.float64]:
    """When requests are due, seconds from the start, ascending: gaps are exponential with mean 1 / rate."""
    rng = np.random.default_rng(seed)
    due = np.cumsum(rng.exponential(1 / rate, size=max(16, round(2 * rate * seconds) + 64)))
    return due[due < seconds]


def closed_loop(transport: Transport, clients: int, seconds: float, warm_s: float = 0.5, pause_s: float = 0.0) -> Load:
    """Keep so many clients busy for so long.

    Args:
        warm_s: before measuring begins.
        pause_s: before a client that was refused for lack of room comes again.
    """
    return _run(_closed_loop(transport, clients, seconds, warm_s, pause_s))


def open_loop(transport: Transport, rate: float, seconds: float, seed: int, warm_s: float = 0.5) -> Load:
    """Poisson arrivals of that many requests a second, whatever becomes of those before.

    Args:
        warm_s: before measuring begins.
    """
    due = poisson(rate, warm_s + seconds, seed)
    return _run(arrivals(transport, due, Load(seconds, rate=rate), warm_s))


def one_by_one(transport: Transport, seconds: float, least: int = 3, pause_s: float = 0.0) -> Load:
    """One client for so long, and for so many requests at least; the first one warms up.

    Args:
        pause_s: before each request.
    """
    return _run(_one_by_one(transport, seconds, least, pause_s))


def ask_once(transport: Transport, patience_s: float = 10.0) -> str:
    """The outcome of one request; what broke it, where it broke."""
    try:
        return _run(_ask_once(transport, patience_s))
    except TimeoutError:
        return f"nothing within {patience_s:g} s"
    except (OSError, asyncio.IncompleteReadError) as error:
        return f"{BROKEN}: {error}"


async def _ask_once(transport: Transport, patience_s: float) -> str:
    async with asyncio.timeout(patience_s):
        connection = await transport.connect()
        try:
            return await connection.ask(0)
        finally:
            await connection.close()


async def _one_by_one(transport: Transport, seconds: float, least: int, pause_s: float) -> Load:
    load = Load(seconds, clients=1)
    loop = asyncio.get_running_loop()
    connection = await transport.connect()
    await connection.ask(0)
    cpu, begin = time.process_time(), loop.time()
    watch = asyncio.create_task(_watch_lag(load))
    while loop.time() - begin < seconds or load.all_requests < least:
        await asyncio.sleep(pause_s)
        sent = loop.time()
        load.all_requests += 1
        outcome = await connection.ask(load.all_requests)
        load.count(outcome, loop.time() - sent, connection.said)
        if connection.closed:
            connection = await transport.connect()
    load.own_cpu_s, load.seconds = time.process_time() - cpu, loop.time() - begin
    watch.cancel()
    await connection.close()
    return load


async def arrivals(
    transport: Transport, due_s: Sequence[float] | npt.NDArray[np.float64], load: Load, warm_s: float
) -> Load:
    """Send requests when they are due, seconds from now, into ``load``; by the event loop's clock."""
    loop = asyncio.get_running_loop()
    pool, tasks, start = _Pool(transport), set[asyncio.Task[None]](), loop.time()
    cpu = time.process_time()
    for turn, due in enumerate(due_s):
        at = start + float(due)
        if (wait := at - loop.time()) > 0:
            await asyncio.sleep(wait)
        if due < warm_s:
            cpu = time.process_time()
        else:
            load.lags_s.append(max(0.0, loop.time() - at))
        task = asyncio.create_task(_one(pool, turn, at, load, counted=due >= warm_s))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.sleep(max(0.0, start + warm_s + load.seconds - loop.time()))
    load.own_cpu_s = time.process_time() - cpu
    if tasks:
        await asyncio.wait(tasks, timeout=_PATIENCE_S)
    for task in list(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await pool.close()
    return load


async def _one(pool: _Pool, turn: int, due: float, load: Load, *, counted: bool) -> None:
    outcome, said = UNANSWERED, ""  # where it is cancelled
    try:
        outcome, said = await pool.ask(turn)
    finally:
        load.all_requests += 1
        if counted:
            load.count(outcome, asyncio.get_running_loop().time() - due, said)


class _Pool:
    """Connections, as many as requests are under way, each with one at a time."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._idle: list[Connection] = []
        self._room = asyncio.Semaphore(_CONNECTIONS)

    async def ask(self, turn: int) -> tuple[str, str]:
        """The outcome of one request, and what came with one that is no good answer."""
        async with self._room:
            connection: Connection | None = None
            try:
                connection = await self._connection()
                outcome = await connection.ask(turn)
                said = connection.said
            except (OSError, asyncio.IncompleteReadError) as error:
                outcome, said = BROKEN, str(error)
            except asyncio.CancelledError:
                if connection:
                    await connection.close()
                raise
            if connection and outcome != BROKEN and not connection.closed:
                self._idle.append(connection)
            elif connection:
                await connection.close()
            return outcome, said

    async def _connection(self) -> Connection:
        """One that is idle, else a new one; not one that the server has closed meanwhile, as any client would look."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
            await connection.close()
        return await self._transport.connect()

    async def close(self) -> None:
        for connection in self._idle:
            await connection.close()


async def _closed_loop(transport: Transport, clients: int, seconds: float, warm_s: float, pause_s: float) -> Load:
    load = Load(seconds, clients=clients)
    loop = asyncio.get_running_loop()
    begin = loop.time() + warm_s
    tasks = [asyncio.create_task(_client(transport, n, load, begin + seconds, pause_s)) for n in range(clients)]
    await asyncio.sleep(warm_s)
    cpu = time.process_time()
    watch = asyncio.create_task(_watch_lag(load))
    answered = await asyncio.gather(*tasks)
    load.own_cpu_s = time.process_time() - cpu
    watch.cancel()
    _count(load, [one for client in answered for one in client], begin, begin + seconds)
    return load


def _count(load: Load, answered: list[_Answered], begin: float, end: float) -> None:
    """What was answered between begin and end; where nothing was, what was answered after.

    Also what was sent before: leaving it out would take a request's time off what the slowest answer in that time.
    """
    inside = [one for one in answered if begin <= one.done <= end]
    if not inside and answered:
        last = max(one.done for one in answered)
        inside, load.seconds = [one for one in answered if one.done > end], max(last - begin, load.seconds)
    for one in inside:
        load.count(one.outcome, one.done - one.sent, one.said)
    load.all_requests = len(answered)


class _Answered(NamedTuple):
    """One request of a closed loop; times by the event loop's clock."""

    sent: float
    done: float
    outcome: str
    said: str


async def _client(transport: Transport, turn: int, load: Load, end: float, pause_s: float) -> list[_Answered]:
    """One connection, opened again when it breaks or the server closes it.

    Each client asks once at least: where the machine stands still for longer than all of it should take, what is
    counted is what the first answers took.
    """
    loop = asyncio.get_running_loop()
    answered: list[_Answered] = []
    while True:
        try:
            connection = await transport.connect()
            try:
                async with asyncio.timeout_at(end + _PATIENCE_S):
                    await _ask_on(connection, turn, answered, end, pause_s)
            finally:
                await connection.close()
        except TimeoutError:
            load.outcomes[UNANSWERED] += 1
        except (OSError, asyncio.IncompleteReadError) as error:
            load.outcomes[BROKEN] += 1
            load.said.setdefault(BROKEN, str(error))
            await asyncio.sleep(0.05)
        if loop.time() >= end:
            return answered


async def _ask_on(connection: Connection, turn: int, answered: list[_Answered], end: float, pause_s: float) -> None:
    loop = asyncio.get_running_loop()
    while not connection.closed and ((sent := loop.time()) < end or not answered):
        outcome = await connection.ask(turn + len(answered))
        since = connection.sent_at if outcome in NO_ROOM else sent
        answered.append(_Answered(since, loop.time(), outcome, connection.said))
        if outcome in NO_ROOM:
            await asyncio.sleep(pause_s)


async def _watch_lag(load: Load) -> None:
    loop = asyncio.get_running_loop()
    while True:
        at = loop.time() + _TICK_S
        await asyncio.sleep(_TICK_S)
        load.lags_s.append(max(0.0, loop.time() - at))


def _run(main: Coroutine[Any, Any, Returned]) -> Returned:
    """In a loop whose timers are finer than epoll's and uvloop's, which count whole milliseconds."""
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        return runner.run(main)
