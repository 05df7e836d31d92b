from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from serving.ordered import in_order
from tests.virtual import run_virtually


async def counted(count: int, every_s: float = 0.0) -> AsyncIterator[int]:
    for n in range(count):
        await asyncio.sleep(every_s)
        yield n


def test_answers_keep_their_order_and_so_many_are_worked_on() -> None:
    at_once = most = 0

    async def answer(n: int) -> int:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(10 - n % 10)
        at_once -= 1
        return n

    async def main() -> list[int]:
        return [n async for n in in_order(counted(40), answer, 4)]

    assert run_virtually(main()) == list(range(40))
    assert 4 <= most <= 6  # one is being fetched and one waits to be taken up


def test_an_answer_does_not_wait_for_the_next_question() -> None:
    async def answer(n: int) -> float:
        await asyncio.sleep(1)
        return asyncio.get_running_loop().time()

    async def main() -> list[float]:
        return [when async for when in in_order(counted(3, every_s=100), answer, 4)]

    assert run_virtually(main()) == [101, 201, 301]


def test_the_first_failure_ends_it_and_the_rest_is_given_up() -> None:
    given_up: list[int] = []

    async def answer(n: int) -> int:
        try:
            await asyncio.sleep(n)
        except asyncio.CancelledError:
            given_up.append(n)
            raise
        if n == 2:
            raise ValueError(n)
        return n

    async def main() -> list[int]:
        async with aclosing(in_order(counted(100), answer, 4)) as answers:
            told = [await anext(answers), await anext(answers)]
            with pytest.raises(ValueError, match="2"):
                await anext(answers)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return told

    assert run_virtually(main()) == [0, 1]
    assert 3 in given_up


def test_questions_that_fail_are_told_after_what_came_before() -> None:
    async def questions() -> AsyncIterator[int]:
        yield 1
        raise ValueError("no more")

    async def answer(n: int) -> int:
        await asyncio.sleep(1)
        return n

    async def main() -> None:
        answers = in_order(questions(), answer, 4)
        assert await anext(answers) == 1
        with pytest.raises(ValueError, match="no more"):
            await anext(answers)

    run_virtually(main())
