"""What is done with several blobs at once."""

from __future__ import annotations

import trio
import trio.testing

from unionmount.transfer.blobs import in_parallel


async def test_items_begin_in_their_order_and_few_at_once() -> None:
    begun: list[int] = []
    done = [trio.Event() for _ in range(7)]

    async def work(item: int) -> bool:
        begun.append(item)
        await done[item].wait()
        return True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(in_parallel, range(7), work)
        await trio.testing.wait_all_tasks_blocked()
        few = len(begun)
        assert sorted(begun) == list(range(few))
        assert few < len(done)
        done[1].set()
        await trio.testing.wait_all_tasks_blocked()
        assert begun[few:] == [few]
        for event in done:
            event.set()
    assert sorted(begun) == list(range(7))
