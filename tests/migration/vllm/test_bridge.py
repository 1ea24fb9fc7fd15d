"""The letterboxes between the engine's thread and the agent's."""

import asyncio
import threading

from migration.vllm.engine.bridge import Bridge

LONG_S = 30.0


def test_letters_to_the_engine_are_read_in_order_and_once() -> None:
    bridge, done = Bridge(), list[int]()
    for number in range(3):
        bridge.to_engine(lambda number=number: done.append(number))  # type: ignore[misc]
    bridge.to_engine(lambda: bridge.to_engine(lambda: done.append(9)))
    bridge.read()
    bridge.read()
    assert done == [0, 1, 2, 9]


def test_letters_from_many_threads_all_arrive() -> None:
    bridge, done = Bridge(), list[int]()

    def write(first: int) -> None:
        for number in range(first, first + 200):
            bridge.to_engine(lambda number=number: done.append(number))  # type: ignore[misc]

    threads = [threading.Thread(target=write, args=(first,)) for first in range(0, 1000, 200)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        bridge.read()
    bridge.read()
    assert sorted(done) == list(range(1000))


async def test_letters_to_the_agent_come_on_its_loop_in_order() -> None:
    bridge, done = Bridge(), list[int]()
    bridge.join(asyncio.get_running_loop())
    here = threading.get_ident()
    seen: set[int] = set()

    def note(number: int) -> None:
        seen.add(threading.get_ident())
        done.append(number)

    def send_all() -> None:
        for number in range(50):
            bridge.to_agent(note, number)

    await asyncio.to_thread(send_all)
    await asyncio.sleep(0)
    assert done == list(range(50))
    assert seen == {here}


def test_an_agent_that_is_not_there_yet_or_no_more_hears_nothing() -> None:
    bridge = Bridge()
    bridge.to_agent(print)
    loop = asyncio.new_event_loop()
    bridge.join(loop)
    loop.close()
    bridge.to_agent(print)


def test_lingering_ends_with_news_of_any_kind() -> None:
    """Each of these would wait for half a minute otherwise."""
    bridge = Bridge()
    bridge.to_engine(lambda: None)
    bridge.linger(LONG_S, lambda: False)
    bridge.ring()
    bridge.linger(LONG_S, lambda: False)
    bridge.linger(LONG_S, lambda: True)
    timer = threading.Timer(0.01, bridge.ring)
    timer.start()
    bridge.linger(LONG_S, lambda: False)
    timer.join()


def test_lingering_ends_by_itself() -> None:
    Bridge().linger(0.0, lambda: False)
