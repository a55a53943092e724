"""Decoders wait until there is room for what they need."""

import threading
import time

from service.decoding import Decoding


class Decoder(threading.Thread):
    """Takes room, and keeps it until it is told to end."""

    def __init__(self, decoding: Decoding, size: int) -> None:
        super().__init__(daemon=True)
        self.decoding, self.size = decoding, size
        self.inside, self.done = threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        with self.decoding.room_for(self.size):
            self.inside.set()
            self.done.wait(10)

    def end(self) -> None:
        self.done.set()
        self.join(10)


def test_as_many_decode_together_as_fit_and_one_always() -> None:
    decoding = Decoding(100)
    first, second = Decoder(decoding, 60), Decoder(decoding, 40)
    assert first.inside.wait(5)
    assert second.inside.wait(5)
    huge = Decoder(decoding, 1000)
    assert not huge.inside.wait(0.1)
    first.end()
    assert not huge.inside.wait(0.1), "somebody is there still"
    second.end()
    assert huge.inside.wait(5), "alone it may, whatever it needs"
    huge.end()


def test_a_large_one_that_waits_is_not_passed_by_small_ones() -> None:
    decoding = Decoding(100)
    first = Decoder(decoding, 60)
    assert first.inside.wait(5)
    large = Decoder(decoding, 90)
    time.sleep(0.1)  # it stands at the door
    small = Decoder(decoding, 10)
    assert not small.inside.wait(0.1)
    first.end()
    assert large.inside.wait(5)
    assert small.inside.wait(5)
    large.end()
    small.end()


def test_room_is_given_back_when_decoding_fails() -> None:
    decoding = Decoding(100)
    for _ in range(3):
        try:
            with decoding.room_for(90):
                raise ValueError("no picture")
        except ValueError:
            pass
    with decoding.room_for(90):
        pass
