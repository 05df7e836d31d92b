from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import cast

import pytest

from serving import service
from serving.lifecycle import Lifecycle
from serving.metrics import Metrics
from serving.parts import Parts


def test_a_turn_of_housekeeping_that_fails_is_not_the_last_and_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service, "_HOUSEKEEPING_S", 0.001)
    turns = 0

    def follow() -> None:
        nonlocal turns
        turns += 1
        if turns <= 3:
            raise RuntimeError("whatever")

    def clean() -> None: ...

    parts = cast(
        "Parts",
        SimpleNamespace(
            metrics=Metrics(),
            registry=SimpleNamespace(fleet=SimpleNamespace(versions={}), sick=list),
            guard=SimpleNamespace(follow=follow),
            seen=SimpleNamespace(clean=clean),
        ),
    )

    async def main() -> None:
        house = asyncio.create_task(service._keep_house(Lifecycle(parts), parts))
        async with asyncio.timeout(30):
            while turns < 6:
                assert not house.done()
                await asyncio.sleep(0.001)
        house.cancel()

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    assert [record.message for record in caplog.records] == ["A turn of housekeeping failed"]
