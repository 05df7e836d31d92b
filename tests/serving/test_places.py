from __future__ import annotations

import asyncio

from serving.places import _KEPT_S, Places


def test_a_place_is_kept_until_it_is_given_up_and_given_up_once() -> None:
    async def kept() -> list[int]:
        places, counted = Places(), []
        first, second = places.keep(), places.keep()
        counted.append(places.kept)
        for place in (first, first, second):
            place.give_up()
            counted.append(places.kept)
        return counted

    assert asyncio.run(kept()) == [2, 1, 1, 0]


def test_who_takes_long_to_come_holds_no_place() -> None:
    async def kept() -> tuple[int, bool]:
        places = Places()
        place = places.keep()
        await asyncio.sleep(1.5 * _KEPT_S)
        place.give_up()
        return places.kept, place.kept

    assert asyncio.run(kept()) == (0, False)
