"""Ctrl-C during a step: deferred once, obeyed twice, restored after, and left alone in other threads."""

import os
import signal
import threading
from types import FrameType

import pytest
from rnncore.interrupts import deferred_interrupt


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_nothing_is_requested_at_first() -> None:
    with deferred_interrupt() as interrupt:
        assert not interrupt


def test_the_first_ctrl_c_only_sets_the_flag() -> None:
    done = []
    with deferred_interrupt() as interrupt:
        for step in range(5):
            if step == 2:
                press_ctrl_c()
            done.append(step)
            if interrupt:
                break
    assert done == [0, 1, 2]
    assert interrupt.requested


def test_the_second_ctrl_c_raises() -> None:
    with deferred_interrupt() as interrupt:
        press_ctrl_c()
        assert interrupt
        with pytest.raises(KeyboardInterrupt):
            press_ctrl_c()


@pytest.mark.parametrize("error", [None, ValueError])
def test_the_handler_from_before_is_put_back(error: type[Exception] | None) -> None:
    heard = []

    def own(number: int, frame: FrameType | None) -> None:
        heard.append(number)

    before = signal.signal(signal.SIGINT, own)
    try:
        try:
            with deferred_interrupt():
                press_ctrl_c()
                assert heard == []
                if error:
                    raise error
        except ValueError:
            pass
        press_ctrl_c()
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [signal.SIGINT]


def test_outside_the_main_thread_nothing_is_handled() -> None:
    handlers = []

    def enter() -> None:
        with deferred_interrupt() as interrupt:
            handlers.append((signal.getsignal(signal.SIGINT), bool(interrupt)))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert handlers == [(signal.getsignal(signal.SIGINT), False)]
