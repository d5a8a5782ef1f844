"""Work beside other work: the same items in order, bounded, and errors where they belong."""

import threading
import time

import pytest

from vitals.activations.pipeline import ahead, behind


def wait_for(condition):
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)
    assert condition()


def test_items_come_in_their_order():
    assert list(ahead(range(100), depth=3)) == list(range(100))


def test_items_are_made_before_they_are_asked_for_and_no_more_than_the_depth():
    made = []

    def items():
        for item in range(10):
            made.append(item)
            yield item

    stream = ahead(items(), depth=2)
    assert next(stream) == 0
    wait_for(lambda: len(made) == 3)  # the one taken, and two waiting
    time.sleep(0.02)
    assert len(made) == 3
    stream.close()
    assert len(made) == 3


def test_an_error_comes_where_its_item_would_have():
    def items():
        yield 1
        raise KeyError("second")

    stream = ahead(items())
    assert next(stream) == 1
    with pytest.raises(KeyError, match="second"):
        next(stream)


def test_calls_run_in_order_in_another_thread():
    done = []
    with behind() as later:
        for item in range(50):
            later(lambda i: done.append((i, threading.current_thread())), item)
    assert [item for item, _ in done] == list(range(50))
    assert threading.current_thread() not in {thread for _, thread in done}


def test_calls_wait_for_each_other_beyond_the_depth():
    gate, started = threading.Event(), []

    def call(item):
        started.append(item)
        gate.wait(10)

    with behind(depth=2) as later:
        later(call, 0)
        later(call, 1)
        third = threading.Thread(target=later, args=(call, 2))
        third.start()
        time.sleep(0.02)
        assert third.is_alive()  # two calls have not ended
        gate.set()
        third.join(10)
    assert started == [0, 1, 2]


@pytest.mark.parametrize("calls", [1, 5])
def test_the_error_of_a_call_reaches_the_caller(calls):
    def fail():
        raise KeyError("disk")

    with pytest.raises(KeyError, match="disk"), behind() as later:
        for _ in range(calls):
            later(fail)
