"""Simulated ranks on a fake window: every operation is a switch point, a seed picks who goes on.

Each client runs in a thread of its own, but only the one that holds the baton moves; it hands the
baton on where the window is used.  So the code under test is the code that ships, and a seed
repeats a run exactly.  Reads and writes of more than a word are done piece by piece in a random
order with switch points between the pieces: whatever can be torn is torn.
"""

from __future__ import annotations

import itertools
import random
import struct
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from alamo_mpi.errors import ShardLostError

_T = TypeVar("_T")
_WORD = struct.Struct("@Q")
_MASK = (1 << 64) - 1


class Interrupted(BaseException):
    """Stands for an exception that comes from outside, in the middle of an operation."""


class StuckError(AssertionError):
    """The clients take steps, and nobody finishes."""


class _Unwind(BaseException):
    """Ends the other clients after one has failed."""


class Memory:
    """The segments of all ranks."""

    def __init__(self, size: int, nbytes: int) -> None:
        self.segments = [bytearray(nbytes) for _ in range(size)]


class Interleaver:
    """Runs clients one step at a time, in an order that the seed picks."""

    def __init__(self, seed: int, *, max_steps: int = 200_000) -> None:
        self.random = random.Random(seed)
        self.steps = 0
        self._max_steps = max_steps
        self._batons: dict[int, threading.Semaphore] = {}
        self._alive: list[int] = []
        self._failure: BaseException | None = None
        self._current = -1

    def run(self, clients: list[Callable[[], None]]) -> None:
        """Run all clients to their ends; raise the first failure."""
        threads = []
        for number, client in enumerate(clients):
            self._batons[number] = threading.Semaphore(0)
            thread = threading.Thread(target=self._body, args=(number, client))
            threads.append(thread)
            self._alive.append(number)
        for thread in threads:
            thread.start()
        self._current = self.random.choice(self._alive)
        self._batons[self._current].release()
        for thread in threads:
            thread.join()
        if self._failure is not None:
            raise self._failure

    def switch(self, *, away: bool = False) -> None:
        """Let the seed pick who goes on; `away` prefers another client."""
        self.steps += 1
        if self._current < 0:
            return  # set-up code outside `run`
        if self._failure is not None:
            raise _Unwind
        if self.steps > self._max_steps:
            raise StuckError(f"{self.steps} steps")
        me = self._current
        others = [number for number in self._alive if number != me] if away else self._alive
        self._hand_to(self.random.choice(others or self._alive))
        if self._current != me:
            raise AssertionError("two clients hold the baton")
        if self._failure is not None:
            raise _Unwind

    def _hand_to(self, chosen: int) -> None:
        me = self._current
        if chosen != me:
            self._current = chosen
            self._batons[chosen].release()
            self._batons[me].acquire()

    def _body(self, number: int, client: Callable[[], None]) -> None:
        self._batons[number].acquire()
        try:
            if self._failure is None:
                client()
        except _Unwind:
            pass
        except BaseException as error:
            if self._failure is None:
                self._failure = error
        self._alive.remove(number)
        if self._alive:
            self._current = self.random.choice(self._alive)
            self._batons[self._current].release()
        else:
            self._current = -1


class FakeWindow:
    """One rank's view of the memory; `interrupt_at` raises `Interrupted` at that operation."""

    def __init__(
        self,
        memory: Memory,
        rank: int,
        interleaver: Interleaver | None = None,
        *,
        direct: bool = True,
        tear: float = 0.3,
    ) -> None:
        self.rank = rank
        self.size = len(memory.segments)
        self.nbytes = len(memory.segments[0])
        self.direct = [direct or other == rank for other in range(self.size)]
        self.lost: set[int] = set()
        self.interrupt_at: int | None = None
        self.operations = 0
        #: How often others go on before each operation of this client.
        self.slowness = 0
        self._segments = memory.segments
        self._interleaver = interleaver
        self.tear = tear

    def _step(self) -> None:
        self.operations += 1
        if self._interleaver is not None:
            self._interleaver.switch()
            for _ in range(self.slowness):
                self._interleaver.switch(away=True)
        if self.interrupt_at is not None and self.operations >= self.interrupt_at:
            self.interrupt_at = None
            raise Interrupted

    def _pieces(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Cut a range at word boundaries, in random order; one piece if nothing is to be torn."""
        if self._interleaver is None or self._interleaver.random.random() > self.tear:
            return [(start, stop)]
        rng = self._interleaver.random
        cuts = sorted({start, stop, *(rng.randrange(start, stop + 1) & ~7 for _ in range(4))})
        cuts = [cut for cut in cuts if start <= cut <= stop]
        pieces = list(itertools.pairwise(cuts))
        rng.shuffle(pieces)
        return pieces

    def _check(self, offset: int, nbytes: int) -> None:
        assert offset >= 0
        assert nbytes >= 0
        assert offset + nbytes <= self.nbytes, "outside of the segment"

    def word(self, rank: int, offset: int) -> int:
        assert offset % 8 == 0
        self._check(offset, 8)
        self._step()
        return int(_WORD.unpack_from(self._segment(rank), offset)[0])

    def words(self, rank: int, offset: int, count: int) -> tuple[int, ...]:
        assert offset % 8 == 0
        return struct.unpack(f"@{count}Q", self.read(rank, offset, 8 * count))

    def read(self, rank: int, offset: int, nbytes: int) -> bytes:
        buffer = bytearray(nbytes)
        self.read_into(rank, offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, rank: int, offset: int, buffer: memoryview) -> None:
        self._check(offset, len(buffer))
        segment = self._segment(rank)
        for start, stop in self._pieces(offset, offset + len(buffer)) or [(offset, offset)]:
            self._step()
            buffer[start - offset : stop - offset] = segment[start:stop]

    def write_word(self, rank: int, offset: int, value: int) -> None:
        assert offset % 8 == 0
        self._check(offset, 8)
        self._step()
        _WORD.pack_into(self._segment(rank), offset, value)

    def write(self, rank: int, offset: int, data: bytes | bytearray | memoryview) -> None:
        self._check(offset, len(data))
        segment = self._segment(rank)
        for start, stop in self._pieces(offset, offset + len(data)) or [(offset, offset)]:
            self._step()
            segment[start:stop] = data[start - offset : stop - offset]

    def compare_and_swap(self, rank: int, offset: int, expected: int, desired: int) -> int:
        assert offset % 8 == 0
        self._check(offset, 8)
        self._step()
        (seen,) = _WORD.unpack_from(self._segment(rank), offset)
        if seen == expected:
            _WORD.pack_into(self._segment(rank), offset, desired)
        return int(seen)

    def _shuffled(self, operations: Sequence[_T]) -> list[tuple[int, _T]]:
        """Operations under way together take effect in any order."""
        numbered = list(enumerate(operations))
        if self._interleaver is not None:
            self._interleaver.random.shuffle(numbered)
        return numbered

    def fill_many(self, reads: Sequence[tuple[int, int, memoryview]]) -> None:
        for _, read in self._shuffled(reads):
            self.read_into(*read)

    def write_words(self, writes: Sequence[tuple[int, int, int]]) -> None:
        for _, write in self._shuffled(writes):
            self.write_word(*write)

    def swap_many(self, swaps: Sequence[tuple[int, int, int, int]]) -> list[int]:
        assert len({swap[:2] for swap in swaps}) == len(swaps), "one word twice"
        seen = {number: self.compare_and_swap(*swap) for number, swap in self._shuffled(swaps)}
        return [seen[number] for number in range(len(swaps))]

    def add(self, rank: int, offset: int, delta: int) -> int:
        assert offset % 8 == 0
        self._check(offset, 8)
        self._step()
        (seen,) = _WORD.unpack_from(self._segment(rank), offset)
        _WORD.pack_into(self._segment(rank), offset, (seen + delta) & _MASK)
        return int(seen)

    def empty(self, nbytes: int) -> memoryview:
        return memoryview(bytearray(nbytes))

    def check(self, rank: int) -> None:
        self._segment(rank)

    def _segment(self, rank: int) -> bytearray:
        assert 0 <= rank < self.size
        if rank in self.lost:
            raise ShardLostError("lost", rank=rank)
        return self._segments[rank]

    def pause(self, attempt: int) -> None:
        assert attempt >= 0
        if self._interleaver is None:
            raise StuckError("waits, and there is nobody to wait for")
        self._interleaver.switch(away=True)
