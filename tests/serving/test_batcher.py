"""The batcher alone: a model that only takes time, and a clock that jumps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.batcher import Batcher
from serving.batches import Batched, Gather, Limits, Reason
from serving.errors import DeadlineExceeded, Overloaded, Stopping
from tests.virtual import run_virtually

Rows = npt.NDArray[np.float32]
BAD = -1.0


@dataclass
class Model:
    """Answers each window (one sample) with twice its value, after a fixed time and a time per window."""

    fixed_s: float = 0.0
    each_s: float = 1.0
    batches: list[list[float]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    async def run(self, gather: Gather) -> Rows:
        rows = gather()
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.batches.append(rows[:, 0].tolist())
        try:
            await asyncio.sleep(self.fixed_s + self.each_s * len(rows))
            if BAD in rows:
                raise ValueError("a bad window")
            return 2 * rows
        finally:
            self.at_once -= 1


@dataclass
class Seen:
    reasons: list[Reason] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)

    def queued(self, windows: int) -> None:
        self.depths.append(windows)

    def released(self, windows: int, reason: Reason) -> None:
        assert windows > 0
        self.reasons.append(reason)


def windows(*values: float) -> Rows:
    return np.array([[value] for value in values], dtype=np.float32)


def make(
    model: Model, *, lanes: int = 1, batch: int = 4, wait_s: float = 0.0, queue: int = 100
) -> tuple[Batcher, Seen]:
    seen = Seen()
    return Batcher(model.run, Limits(lanes, batch, wait_s, queue), seen, now), seen


async def after(seconds: float, what: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    await asyncio.sleep(seconds)
    return await what()


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_lone_request_runs_at_once() -> None:
    async def main() -> None:
        model = Model()
        batcher, seen = make(model, wait_s=10)
        answer = await batcher.submit(windows(3))
        assert answer.probabilities.tolist() == [[6]]
        assert (answer.queue_s, answer.batch_s, answer.inference_s) == (0, 0, 1)
        assert seen.reasons == ["idle"]
        assert batcher.idle

    run_virtually(main())


def test_while_it_is_busy_the_queue_builds_up_to_the_batch_limit() -> None:
    async def main() -> None:
        model = Model()
        batcher, seen = make(model)
        answers = await asyncio.gather(*(batcher.submit(windows(n)) for n in range(7)))
        assert [answer.probabilities[0, 0] for answer in answers] == [0, 2, 4, 6, 8, 10, 12]
        assert model.batches == [[0], [1, 2, 3, 4], [5, 6]]
        assert seen.reasons == ["idle", "full", "idle"]
        assert [answer.queue_s for answer in answers] == [0, 1, 1, 1, 1, 5, 5]
        assert max(seen.depths) == 6
        assert seen.depths[-1] == 0

    run_virtually(main())


def test_as_many_batches_run_at_a_time_as_there_are_lanes() -> None:
    async def main() -> None:
        model = Model()
        batcher, _ = make(model, lanes=2, batch=1)
        await asyncio.gather(*(batcher.submit(windows(n)) for n in range(6)))
        assert model.most_at_once == 2
        assert now() == 3

    run_virtually(main())


def test_a_long_recording_is_split_and_does_not_starve_short_ones() -> None:
    async def main() -> None:
        model = Model()
        batcher, _ = make(model)
        long = asyncio.create_task(batcher.submit(windows(*range(100, 140))))
        await asyncio.sleep(0.5)
        short = await batcher.submit(windows(1))
        # The batch that was running (4 s) and the one it went with (4 s): not the 40 s of the long one.
        assert now() == 8
        assert short.probabilities.tolist() == [[2]]
        assert (await long).probabilities[:, 0].tolist() == [2 * n for n in range(100, 140)]
        assert max(len(batch) for batch in model.batches) == 4

    run_virtually(main())


def test_first_come_first_served_among_short_ones() -> None:
    async def main() -> None:
        done: list[int] = []
        batcher, _ = make(Model(), batch=1)

        async def one(n: int) -> None:
            await batcher.submit(windows(n))
            done.append(n)

        await asyncio.gather(*(one(n) for n in range(5)))
        assert done == [0, 1, 2, 3, 4]

    run_virtually(main())


def test_a_deadline_that_passes_drops_the_work() -> None:
    async def main() -> None:
        model = Model(each_s=10)
        batcher, _ = make(model)
        first = asyncio.create_task(batcher.submit(windows(1)))
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded):
            await batcher.submit(windows(2), deadline=5)
        assert now() == 5
        await first
        await batcher.close()
        assert model.batches == [[1]]

    run_virtually(main())


def test_what_nobody_waits_for_any_more_is_not_run() -> None:
    async def main() -> None:
        model = Model()
        batcher, seen = make(model)
        first = asyncio.create_task(batcher.submit(windows(1)))
        gone = asyncio.create_task(batcher.submit(windows(2)))
        last = asyncio.create_task(batcher.submit(windows(3)))
        await asyncio.sleep(0.5)
        gone.cancel()
        await asyncio.gather(first, last)
        assert model.batches == [[1], [3]]
        assert gone.cancelled()
        assert seen.depths[-1] == 0

    run_virtually(main())


def test_a_client_that_leaves_while_its_batch_runs_harms_nobody() -> None:
    async def main() -> None:
        batcher, _ = make(Model())
        gone = asyncio.create_task(batcher.submit(windows(2)))
        await asyncio.sleep(0.5)
        gone.cancel()
        assert (await batcher.submit(windows(3))).probabilities.tolist() == [[6]]

    run_virtually(main())


def test_a_full_queue_refuses_at_once() -> None:
    async def main() -> None:
        batcher, _ = make(Model(), queue=3)
        tasks = [asyncio.create_task(batcher.submit(windows(n))) for n in range(4)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="3 windows wait already") as caught:
            await batcher.submit(windows(9))
        assert caught.value.details["reason"] == "queue"
        assert now() == 0
        assert len(await asyncio.gather(*tasks)) == 4

    run_virtually(main())


def test_a_recording_longer_than_the_queue_is_taken_when_nothing_waits() -> None:
    async def main() -> None:
        batcher, _ = make(Model(), queue=3)
        answer = await batcher.submit(windows(*range(10)))
        assert len(answer.probabilities) == 10

    run_virtually(main())


def test_a_bad_item_fails_alone() -> None:
    async def main() -> None:
        model = Model()
        batcher, _ = make(model, batch=8)
        first = asyncio.create_task(batcher.submit(windows(0)))
        await asyncio.sleep(0)
        answers = await asyncio.gather(
            batcher.submit(windows(1)),
            batcher.submit(windows(2, BAD)),
            batcher.submit(windows(3, 4)),
            return_exceptions=True,
        )
        await first
        good, bad, other = answers
        assert isinstance(good, Batched)
        assert isinstance(other, Batched)
        assert good.probabilities.tolist() == [[2]]
        assert other.probabilities.tolist() == [[6], [8]]
        assert isinstance(bad, ValueError)
        assert model.batches == [[0], [1, 2, BAD, 3, 4], [1], [2, BAD], [3, 4]]

    run_virtually(main())


def test_what_nobody_waits_for_is_not_run_again_when_its_batch_fails() -> None:
    async def main() -> None:
        model = Model()
        batcher, _ = make(model, batch=8)
        first = asyncio.create_task(batcher.submit(windows(0)))
        await asyncio.sleep(0)
        gone = asyncio.create_task(batcher.submit(windows(1)))
        bad = asyncio.create_task(batcher.submit(windows(BAD)))
        stays = asyncio.create_task(batcher.submit(windows(3)))
        await first
        await asyncio.sleep(0.5)  # the three are running
        gone.cancel()
        with pytest.raises(ValueError, match="a bad window"):
            await bad
        assert (await stays).probabilities.tolist() == [[6]]
        assert model.batches == [[0], [1, BAD, 3], [BAD], [3]]

    run_virtually(main())


def test_health_follows_the_last_batch() -> None:
    async def main() -> None:
        batcher, _ = make(Model())
        healthy = [batcher.healthy]
        with pytest.raises(ValueError, match="a bad window"):
            await batcher.submit(windows(BAD))
        healthy.append(batcher.healthy)
        await batcher.submit(windows(1))
        healthy.append(batcher.healthy)
        assert healthy == [True, False, True]

    run_virtually(main())


def test_closing_answers_what_waits_and_takes_nothing_more() -> None:
    async def main() -> None:
        model = Model()
        batcher, _ = make(model, batch=2)
        tasks = [asyncio.create_task(batcher.submit(windows(n))) for n in range(5)]
        await asyncio.sleep(0)
        await batcher.close()
        assert all(task.done() for task in tasks)
        assert [task.result().probabilities[0, 0] for task in tasks] == [0, 2, 4, 6, 8]
        with pytest.raises(Stopping):
            await batcher.submit(windows(1))

    run_virtually(main())


async def stream(batcher: Batcher, gap_s: float, items: int) -> list[Batched]:
    """Items at a steady pace."""
    return await asyncio.gather(*(after(gap_s * n, lambda n=n: batcher.submit(windows(n))) for n in range(items)))  # type: ignore[misc]


def mean_delay(answers: list[Batched]) -> float:
    return float(np.mean([answer.queue_s + answer.batch_s + answer.inference_s for answer in answers]))


def run_stream(model: Model, gap_s: float, wait_s: float) -> tuple[list[Batched], Seen]:
    async def main() -> tuple[list[Batched], Seen]:
        batcher, seen = make(model, batch=64, wait_s=wait_s, queue=10_000)
        for size in (1, 2, 4, 8):
            batcher.learn(size, model.fixed_s + model.each_s * size)
        return await stream(batcher, gap_s, 300), seen

    return run_virtually(main())


def make_cuda(wait_s: float) -> tuple[Batcher, Seen]:
    """4 ms a batch and next to nothing a window, as the warm-up tells."""
    model = Model(fixed_s=4e-3, each_s=1e-5)
    batcher, seen = make(model, batch=64, wait_s=wait_s, queue=10_000)
    for size in (1, 2, 4, 8):
        batcher.learn(size, model.fixed_s + model.each_s * size)
    return batcher, seen


def run_clients(apart_s: float, wait_s: float) -> tuple[list[Batched], Seen]:
    """Eight who ask again when they have been answered, each a little after the one before."""

    async def main() -> tuple[list[Batched], Seen]:
        batcher, seen = make_cuda(wait_s)
        answers: list[Batched] = []

        async def client(n: int) -> None:
            for _ in range(100):
                await asyncio.sleep(apart_s * (n + 1))
                answers.append(await batcher.submit(windows(n)))

        await asyncio.gather(*(client(n) for n in range(8)))
        return answers, seen

    return run_virtually(main())


def test_waiting_is_learned_where_a_batch_costs_much_before_its_first_window() -> None:
    """As on CUDA: else the first of eight goes alone, and seven wait for it."""
    answers, seen = run_clients(4e-5, wait_s=5e-3)
    assert "waited" in seen.reasons
    without, _ = run_clients(4e-5, wait_s=0)
    assert mean_delay(answers) < 0.75 * mean_delay(without)
    assert max(answer.batch_s for answer in answers) <= 5e-3 + 1e-9


@pytest.mark.parametrize("pause_s", [5e-3, 9e-3, 20e-3, 1.0])
def test_who_comes_alone_after_a_burst_waits_for_nobody(pause_s: float) -> None:
    async def main() -> None:
        batcher, seen = make_cuda(wait_s=5e-3)
        await stream(batcher, 5e-5, 100)
        await asyncio.sleep(pause_s)
        assert (await batcher.submit(windows(1))).batch_s == 0
        assert seen.reasons[-1] == "idle"

    run_virtually(main())


def test_who_waited_and_left_is_no_reason_to_think_that_the_next_one_has_waited() -> None:
    async def main() -> None:
        model = Model(fixed_s=4e-3, each_s=1e-5)
        batcher, seen = make(model, batch=64, wait_s=5e-3, queue=10_000)
        for size in (1, 2, 4, 8):
            batcher.learn(size, model.fixed_s + model.each_s * size)
        await stream(batcher, 3e-4, 300)
        batches = len(model.batches)
        waits = asyncio.create_task(batcher.submit(windows(1)))
        await asyncio.sleep(1e-5)
        waits.cancel()
        await asyncio.sleep(2)
        assert len(model.batches) == batches  # it was held back for company, and nobody ran it
        await batcher.submit(windows(2))
        assert seen.reasons[-1] == "idle"

    run_virtually(main())


@pytest.mark.parametrize(("fixed_s", "each_s", "gap_s"), [(1e-4, 2e-3, 2.5e-3), (1e-4, 2e-3, 1e-3), (4e-3, 1e-5, 0.1)])
def test_there_is_no_waiting_where_it_does_not_pay(fixed_s: float, each_s: float, gap_s: float) -> None:
    """As on a CPU, where windows cost one by one, and as at night, where nobody comes."""
    answers, seen = run_stream(Model(fixed_s=fixed_s, each_s=each_s), gap_s, wait_s=5e-3)
    assert "waited" not in seen.reasons
    assert all(answer.batch_s == 0 for answer in answers)


plans = st.lists(
    st.tuples(
        st.floats(0, 20),  # arrival
        st.lists(st.sampled_from([0.0, 1.0, 2.0, BAD]), min_size=1, max_size=12),
        st.one_of(st.none(), st.floats(0, 40)),  # seconds until its deadline
        st.one_of(st.none(), st.floats(0, 40)),  # seconds until its client leaves
    ),
    max_size=25,
)


@given(plan=plans, lanes=st.integers(1, 3), batch=st.integers(1, 6), wait_s=st.floats(0, 2), queue=st.integers(1, 30))
@settings(max_examples=200, deadline=None)
def test_every_item_is_answered_exactly_once(
    plan: list[tuple[float, list[float], float | None, float | None]], lanes: int, batch: int, wait_s: float, queue: int
) -> None:
    async def main() -> None:
        model = Model(fixed_s=0.5, each_s=0.2)
        batcher, seen = make(model, lanes=lanes, batch=batch, wait_s=wait_s, queue=queue)

        async def one(arrival: float, values: list[float], deadline: float | None, leaves: float | None) -> str:
            await asyncio.sleep(arrival)
            submitted = batcher.submit(windows(*values), None if deadline is None else now() + deadline)
            try:
                async with asyncio.timeout(leaves):
                    answer = await submitted
            except DeadlineExceeded:
                return "late"
            except Overloaded:
                return "refused"
            except ValueError:
                assert BAD in values
                return "bad"
            except TimeoutError:
                return "left"
            assert BAD not in values
            assert answer.probabilities[:, 0].tolist() == [2 * value for value in values]
            assert min(answer.queue_s, answer.batch_s, answer.inference_s) >= 0
            assert answer.batch_s <= wait_s + 1e-6
            return "answered"

        outcomes = await asyncio.gather(*(one(*item) for item in plan))
        assert len(outcomes) == len(plan)
        for outcome, (_, values, deadline, leaves) in zip(outcomes, plan, strict=True):
            if deadline is None and leaves is None and outcome != "refused":
                assert outcome == ("bad" if BAD in values else "answered")
        await batcher.close()
        assert batcher.idle
        assert model.most_at_once <= lanes
        assert all(len(rows) <= batch for rows in model.batches)
        assert not seen.depths or seen.depths[-1] == 0

    run_virtually(main())
