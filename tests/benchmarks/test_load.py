"""The load generator: what is counted, from when, and when it says that it was the bottleneck itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from benchmarks.histogram import Histogram
from benchmarks.load import BROKEN, OK, UNANSWERED, Load, bottleneck
from benchmarks.loops import _closed_loop, _one_by_one, _Pool, arrivals, closed_loop, one_by_one, open_loop, poisson
from benchmarks.rounds import in_turn, told
from benchmarks.sounds import wav
from benchmarks.transports import Http, HttpConnection, get, multipart, oip_json, raw
from tests.benchmarks.servers import Answering, answering
from tests.virtual import run_virtually

CLIP = wav(0.2)


@pytest.fixture
def server() -> Iterator[Answering]:
    with answering() as told:
        yield told


@dataclass
class Takes:
    """A server in virtual time: an answer takes so long, however many are asked for; during a stall none is given."""

    seconds: float
    stall: tuple[float, float] = (0.0, 0.0)
    opened: int = 0
    closed: bool = False
    sent_at: float = 0.0
    said: str = ""

    async def connect(self) -> Takes:
        self.opened += 1
        return self

    async def ask(self, _turn: int) -> str:
        start, end = self.stall
        if start <= (now := asyncio.get_running_loop().time()) < end:
            await asyncio.sleep(end - now)
        await asyncio.sleep(self.seconds)
        return OK

    async def close(self) -> None:
        pass


def test_every_answer_of_a_closed_loop_is_counted_once(server: Answering) -> None:
    found = closed_loop(multipart(server.url, [CLIP]), clients=3, seconds=0.5, warm_s=0.1)
    told = found.to_json()
    assert told["errors"] == 0
    assert 0 < told["requests"] <= found.all_requests == server.seen
    assert len(found.latencies_s) == told["requests"]
    assert told["per_second"] == pytest.approx(told["requests"] / told["seconds"], abs=0.1)
    assert 0 < told["p50_ms"] <= told["p90_ms"] <= told["p99_ms"] <= told["p999_ms"] <= told["max_ms"]
    assert told["generator"]["core_share"] > 0


def test_every_arrival_of_an_open_loop_is_counted_once(server: Answering) -> None:
    found = open_loop(multipart(server.url, [CLIP]), rate=80, seconds=0.5, seed=1, warm_s=0.1)
    due = poisson(80, 0.6, seed=1)
    assert found.all_requests == len(due) == server.seen
    assert found.outcomes == {OK: int((due >= 0.1).sum())}
    assert len(found.lags_s) == found.outcomes[OK]


@pytest.mark.parametrize(("trouble", "outcome"), [("refuse", "http_429"), ("drop", BROKEN)])
def test_what_is_no_answer_is_an_error(server: Answering, trouble: str, outcome: str) -> None:
    server.trouble = trouble
    way = multipart(server.url, [CLIP])
    for found in (closed_loop(way, 3, 0.5, warm_s=0.0), open_loop(way, 60, 0.5, seed=2, warm_s=0.0)):
        told = found.to_json()
        assert told["errors"] == found.outcomes[outcome] > 0
        assert told["said"][outcome]  # what came with the first one, so that it can be explained
        assert trouble == "drop" or told["said"][outcome] == "heard"
        assert told["per_second"] == pytest.approx(found.outcomes[OK] / found.seconds, abs=0.1)


def test_nobody_there_is_told_as_broken_requests() -> None:
    found = open_loop(raw("http://127.0.0.1:9", [CLIP]), rate=50, seconds=0.3, seed=0, warm_s=0.0)
    told = found.to_json()
    assert (told["per_second"], told["errors"]) == (0, told["requests"])
    assert told["outcomes"] == {BROKEN: told["requests"]}


def test_a_connection_that_the_server_has_closed_meanwhile_is_not_used_again(server: Answering) -> None:
    server.closes = True

    async def main() -> list[str]:
        pool, outcomes = _Pool(multipart(server.url, [CLIP])), []
        for turn in range(3):
            outcomes.append((await pool.ask(turn))[0])
            (idle,) = pool._idle
            assert isinstance(idle, HttpConnection)
            async with asyncio.timeout(60):
                assert await idle.reader.read() == b""  # its end, which may come long after the answer
        await pool.close()
        return outcomes

    assert asyncio.run(main()) == [OK] * 3
    assert server.seen == 3


def test_poisson_arrivals_are_poisson() -> None:
    due = poisson(100, 200, seed=0)
    gaps = np.diff(due)
    assert len(due) == pytest.approx(20_000, rel=0.03)
    assert gaps.mean() == pytest.approx(0.01, rel=0.03)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # as those of an exponential distribution
    assert (poisson(100, 200, seed=0) == due).all()
    assert len(poisson(100, 200, seed=1)) != len(due) or (poisson(100, 200, seed=1) != due).any()


def test_a_stall_is_in_the_latencies_of_all_that_was_due_meanwhile() -> None:
    """The server stalls from 4 to 6 s of 10: every request that was due then waits for the end of the stall.

    By hand: 1,000 requests a second apart by 10 ms, 200 of them due in the stall; the one that was due at t waits
    6 - t and its own millisecond. A generator that waits for answers would have seen one slow request.
    """
    server = Takes(0.001, stall=(4.0, 6.0))
    due = [n / 100 for n in range(1000)]
    load = run_virtually(arrivals(server, due, Load(10.0, rate=100), warm_s=0.0))
    assert load.outcomes == {OK: 1000}
    expected = sorted((6.0 - t if 4.0 <= t < 6.0 else 0.0) + 0.001 for t in due)
    assert sorted(load.latencies_s) == pytest.approx(expected, abs=1e-6)
    told = load.to_json()
    assert told["p50_ms"] == pytest.approx(1, rel=0.01)
    assert told["p90_ms"] == pytest.approx(1000, rel=0.02)  # a fifth waits, evenly from 0 to 2 s: half of it over 1 s
    assert told["p99_ms"] == pytest.approx(1900, rel=0.02)


def test_a_stall_of_a_real_server_shows_in_an_open_loop(server: Answering) -> None:
    """For 0.8 s nothing is answered, so p90 is a good part of the stall; what was sent late is in it.

    That of a machine which stands still meanwhile is in it too: times are never less than those of the server's stall.
    """
    server.stall = (20, 0.8)
    found = open_loop(multipart(server.url, [CLIP]), rate=50, seconds=2.0, seed=3, warm_s=0.0)
    told = found.to_json()
    assert told["errors"] == 0
    assert told["p90_ms"] > 200
    assert told["max_ms"] > 600
    assert sum(latency > 0.2 for latency in found.latencies_s) >= 15  # 30 are due in the first 0.6 s of the stall


def test_a_generator_that_is_late_is_in_the_latencies_too() -> None:
    """Somebody holds the event loop for 0.5 s: what was due meanwhile is counted from when it was due."""

    async def held_up() -> Load:
        loop = asyncio.get_running_loop()
        loop.call_later(0.2, time.sleep, 0.5)
        return await arrivals(Takes(0.0), [n / 50 for n in range(50)], Load(1.0, rate=50), warm_s=0.0)

    load = asyncio.run(held_up())
    assert load.outcomes == {OK: 50}
    assert max(load.lags_s) > 0.4
    assert max(load.latencies_s) > 0.4
    assert "late" in load.to_json()["generator"]["bottleneck"]


def test_what_is_never_answered_is_counted_with_the_time_it_was_waited_for() -> None:
    load = run_virtually(arrivals(Takes(1e6), [0.0, 0.5], Load(1.0, rate=2), warm_s=0.0))
    assert load.outcomes == {UNANSWERED: 2}
    assert min(load.latencies_s) > 19
    assert load.to_json()["errors"] == 2


def test_an_open_loop_has_as_many_connections_as_requests_are_under_way() -> None:
    server = Takes(0.025)
    run_virtually(arrivals(server, [n / 100 for n in range(100)], Load(1.0, rate=100), warm_s=0.0))
    assert server.opened == 3


@pytest.mark.parametrize(
    ("core_share", "lag_ms", "answer_ms", "word"),
    [
        (0.1, 0.5, 10.0, ""),
        (0.79, 9.0, 10.0, ""),
        (0.81, 0.5, 10.0, "0.81 of one core"),
        (0.1, 11.0, 10.0, "11.0 ms late"),
    ],
)
def test_the_verdict_on_the_generator(core_share: float, lag_ms: float, answer_ms: float, word: str) -> None:
    why = bottleneck(core_share, lag_ms, answer_ms)
    assert word in why
    assert bool(why) == bool(word)


def test_one_client_asks_as_often_as_it_is_told_at_least() -> None:
    load = run_virtually(_one_by_one(Takes(0.01), seconds=0.0, least=4, pause_s=0.0))
    assert load.outcomes == {OK: 4}
    assert load.seconds == pytest.approx(sum(load.latencies_s)) == pytest.approx(0.04)


def test_a_slow_server_is_credited_with_all_that_it_answers() -> None:
    """Four clients, 0.2 s an answer: 20 a second, though a fifth of the time is over before the first is back."""
    load = run_virtually(_closed_loop(Takes(0.2), clients=4, seconds=1.0, warm_s=0.3, pause_s=0.0))
    assert load.per_second == pytest.approx(20)


def test_a_request_longer_than_the_load_is_counted_when_it_is_answered() -> None:
    load = run_virtually(_closed_loop(Takes(0.4), clients=2, seconds=0.1, warm_s=0.0, pause_s=0.0))
    assert load.outcomes == {OK: 2}
    assert load.seconds == pytest.approx(0.4)


def test_every_client_asks_once_however_late_it_comes_to_it() -> None:
    """The machine stands still from before the first request until after the end."""

    class Late(Takes):
        async def connect(self) -> Takes:
            await asyncio.sleep(3)
            return await super().connect()

    load = run_virtually(_closed_loop(Late(0.1), clients=3, seconds=0.5, warm_s=0.1, pause_s=0.0))
    assert load.outcomes == {OK: 3}
    assert load.per_second == pytest.approx(1)  # 3 s after the warm-up


def test_transports_send_whole_clips_in_turn(server: Answering) -> None:
    other = wav(0.3)
    for way in (multipart(server.url, [CLIP, other]), raw(server.url, [CLIP, other])):
        one_by_one(way, 0.0, least=2)
    assert CLIP in server.bodies[0]
    assert other in server.bodies[1]
    assert server.bodies[-2:] == [other, CLIP]
    one_by_one(oip_json(server.url, [CLIP], "timbre"), 0.0, least=1)
    assert b'"BYTES"' in server.bodies[-1]
    assert one_by_one(get(server.url, "/livez"), 0.0, least=1).outcomes == {OK: 1}


def test_a_histogram_keeps_three_digits_and_merges() -> None:
    seconds = np.random.default_rng(0).exponential(0.02, 5000)
    whole = Histogram(seconds)
    for percentile in (50, 90, 99, 99.9):
        assert whole.ms(percentile) == pytest.approx(np.percentile(seconds, percentile) * 1e3, rel=0.02)
    halves = [Histogram(half).to_json()["hdr"] for half in np.split(seconds, 2)]
    merged = Histogram.merged(halves)
    assert len(merged) == 5000
    assert merged.ms(99) == whole.ms(99)
    assert Histogram().to_json()["p99_ms"] == 0


def test_an_https_address_is_asked_at_its_own_port(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    async def refuse(host: str, port: int, ssl: object) -> None:
        asked.append((host, port, ssl is not None))
        raise OSError("nobody there")

    monkeypatch.setattr(asyncio, "open_connection", refuse)
    for url in ("https://somewhere", "http://somewhere"):
        with pytest.raises(OSError, match="nobody"):
            asyncio.run(Http(url, [b""]).connect())
    assert asked == [("somewhere", 443, True), ("somewhere", 80, False)]


def test_rounds_go_forwards_and_backwards_and_are_told_as_one() -> None:
    asked: list[str] = []
    loads = {"a": [100, 300, 200], "b": [10, 20, 30]}

    def asking(name: str) -> Callable[[], Load]:
        def ask() -> Load:
            asked.append(name)
            load = Load(0.5, clients=8, own_cpu_s=0.1, lags_s=[0.001])
            for _ in range(round(loads[name][asked.count(name) - 1] * 0.5)):
                load.count(OK, 0.01 * asked.count(name))
            return load

        return ask

    found = in_turn({name: asking(name) for name in loads}, rounds=3)
    assert asked == ["a", "b", "b", "a", "a", "b"]
    whole = told(found["a"])
    assert (whole["per_second"], whole["spread"]) == (200, [100, 300])
    assert (whole["requests"], whole["seconds"], whole["clients"]) == (300, 1.5, 8)
    assert whole["p50_ms"] == pytest.approx(20, rel=0.01)  # of all 300, not of a round
    assert whole["generator"]["core_share"] == pytest.approx(0.2)
