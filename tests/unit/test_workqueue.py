"""A queue of keys, each at most once, never two at a time, now or later.

add           twice is once · while at work is once more, when that is done
add_after     the earliest counts, whichever came first · an add overtakes it · negative is now
forget        what was asked for later, not what is due
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from gvm_operator.workqueue import WorkQueue


def run(scene: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(scene, timeout=20)

    asyncio.run(limited())


def test_keys_come_in_the_order_in_which_they_were_added_each_once() -> None:
    async def scene() -> None:
        queue: WorkQueue[str] = WorkQueue()
        for key in ("b", "a", "b", "b"):
            queue.add(key)
        assert len(queue) == 2
        assert [await queue.get(), await queue.get()] == ["b", "a"]
        assert len(queue) == 0

    run(scene())


def test_a_key_that_is_added_while_it_is_worked_on_comes_once_more_when_that_is_done() -> None:
    async def scene() -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.add("a")
        assert await queue.get() == "a"
        queue.add("a")
        queue.add("a")
        assert len(queue) == 0, "two workers must not meet at one job"
        queue.done("a")
        assert len(queue) == 1
        assert await queue.get() == "a"
        queue.done("a")
        assert len(queue) == 0

    run(scene())


def test_a_key_that_is_done_and_not_asked_for_does_not_come_back() -> None:
    async def scene() -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.add("a")
        queue.done(await queue.get())
        assert len(queue) == 0
        queue.add("a")
        assert await queue.get() == "a"

    run(scene())


def test_no_key_is_ever_at_two_workers_and_none_is_forgotten() -> None:
    async def scene() -> None:
        queue: WorkQueue[int] = WorkQueue()
        at_work: set[int] = set()
        last_seen: dict[int, int] = {}
        state = dict.fromkeys(range(5), 0)

        async def work() -> None:
            while True:
                key = await queue.get()
                assert key not in at_work
                at_work.add(key)
                await asyncio.sleep(0)
                last_seen[key] = state[key]
                await asyncio.sleep(0)
                at_work.discard(key)
                queue.done(key)

        workers = [asyncio.create_task(work()) for _ in range(3)]
        for number in range(1, 201):
            key = number * 7 % 5
            state[key] = number
            (queue.add if number % 3 else lambda key: queue.add_after(key, 0.001))(key)
            if number % 4 == 0:
                await asyncio.sleep(0)
        while last_seen != state:
            await asyncio.sleep(0.001)
        for worker in workers:
            worker.cancel()
        assert await asyncio.gather(*workers, return_exceptions=True) != []
        assert not any(worker.done() and not worker.cancelled() and worker.exception() for worker in workers)

    run(scene())


def test_of_two_times_the_earlier_counts_in_either_order() -> None:
    async def scene() -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.add_after("a", 600)
        queue.add_after("a", 0.01)
        queue.add_after("b", 0.02)
        queue.add_after("b", 600)
        assert len(queue) == 0
        assert [await queue.get(), await queue.get()] == ["a", "b"]

    run(scene())


def test_a_time_that_is_past_is_now() -> None:
    async def scene() -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.add_after("a", -5)
        assert await queue.get() == "a"

    run(scene())


def test_a_look_at_once_serves_for_the_later_one_as_well() -> None:
    async def scene() -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.add_after("a", 0.02)
        queue.add("a")
        queue.done(await queue.get())
        await asyncio.sleep(0.05)
        assert len(queue) == 0

    run(scene())


def test_a_time_that_comes_while_the_key_is_worked_on_waits_for_that() -> None:
    async def scene() -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.add("a")
        await queue.get()
        queue.add_after("a", 0.01)
        await asyncio.sleep(0.05)
        assert len(queue) == 0
        queue.done("a")
        assert await queue.get() == "a"

    run(scene())


def test_what_is_forgotten_does_not_come_and_what_is_due_does() -> None:
    async def scene() -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.add("due")
        queue.add_after("a", 0.01)
        queue.forget("a")
        queue.forget("due")
        queue.forget("never heard of")
        await asyncio.sleep(0.05)
        assert await queue.get() == "due"
        assert len(queue) == 0

    run(scene())
