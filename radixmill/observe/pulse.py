"""Pages of shared memory by which processes see each other live: 64-bit words, one writing process each, no locks, no
messages.

A process that hangs, is stopped or has died can't answer questions; its page can be read all the same. Times are of the
monotonic clock, which all processes of a machine share and nobody sets.
"""

from __future__ import annotations

import mmap
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

_WORD = 8
_BANK = 2048  # words: a step's sequences
_BEAT, _BUSY, _STEPS, _STEP_AT, _RUNNING, _WAITING, _WAITING_TOKENS = range(7)
# Banks of a count, then ids: for steps of even and of odd number, for what is being taken in, and for whose grammar is
# being built. Each has one thread that writes it.
_FLYING = 16
_HEARD = _FLYING + 2 * _BANK
_BUILT = _HEARD + _BANK
_WORDS = _BUILT + _BANK
_ASKED, _TURNS = range(2)  # of a front's page


class Words:
    """A file of 64-bit words, mapped."""

    def __init__(self, path: Path, words: int, *, read_only: bool = False) -> None:
        """`path`: made, full of zeros, if it is not there, but not if we only read. Raises OSError."""
        self.path = path
        number = os.open(path, (os.O_RDONLY if read_only else os.O_RDWR | os.O_CREAT) | os.O_CLOEXEC, 0o600)
        try:
            if not read_only:
                os.ftruncate(number, words * _WORD)
                if sys.platform == "linux":  # now: a disk that is full later would kill whoever writes
                    os.posix_fallocate(number, 0, words * _WORD)
            if os.fstat(number).st_size < words * _WORD:
                raise OSError(f"{path} is no page of {words} words")
            access = mmap.ACCESS_READ if read_only else mmap.ACCESS_WRITE
            self._map = mmap.mmap(number, words * _WORD, access=access)
        finally:
            os.close(number)
        self.words = memoryview(self._map).cast("Q")

    def close(self) -> None:
        """Unmap. Whoever was lent `words` must have let go of it."""
        self.words.release()
        self._map.close()


class EnginePulse:
    """What an engine writes of itself: that it lives, whether it has work, and which sequences a launched step computes."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """`read_only`: the page of another process, which must be there. Raises OSError."""
        self._page = Words(path, _WORDS, read_only=read_only)
        self.words = self._page.words

    @classmethod
    def private(cls) -> Self:
        """One that nobody else reads, for an engine without a supervisor."""
        path = Path(f"/dev/shm/radixmill-{os.getpid()}-{time.monotonic_ns()}")
        if not path.parent.is_dir():
            path = Path(os.environ.get("TMPDIR", "/tmp")) / path.name
        pulse = cls(path)
        path.unlink()
        return pulse

    # --- the engine writes

    @property
    def word(self) -> memoryview:
        """The word that `beat` counts up, for native code that does the same within each op."""
        return self.words[_BEAT : _BEAT + 1]

    def beat(self) -> None:
        """Something has been done."""
        self.words[_BEAT] = (self.words[_BEAT] + 1) & ((1 << 64) - 1)

    def launched(self, step: int, seqs: Sequence[int]) -> None:
        """A step begins that computes these sequences. Written before: they may be what kills us."""
        self._fill(_FLYING + _BANK * (step % 2), seqs)
        self.words[_BUSY] = 1

    def hearing(self, seqs: Sequence[int]) -> None:
        """These sequences, or questions, are being taken in; none: that is done."""
        self._fill(_HEARD, seqs)

    def building(self, seqs: Sequence[int]) -> None:
        """The grammar that these sequences, or questions, wait for is being built; none: that is done."""
        self._fill(_BUILT, seqs)

    def _fill(self, bank: int, seqs: Sequence[int]) -> None:
        count = min(len(seqs), _BANK - 1)
        self.words[bank] = 0
        for at, seq in enumerate(seqs[:count], bank + 1):
            self.words[at] = seq
        self.words[bank] = count

    def landed(self, step: int) -> None:
        """The step is done."""
        self.words[_FLYING + _BANK * (step % 2)] = 0
        self.words[_STEPS] += 1
        self.words[_STEP_AT] = time.monotonic_ns()
        self.beat()

    def load(self, *, busy: bool, running: int, waiting: int, waiting_tokens: int = 0) -> None:
        """Sequences that run and wait, and the tokens that the waiting ones have to compute."""
        self.words[_BUSY] = busy
        self.words[_RUNNING], self.words[_WAITING], self.words[_WAITING_TOKENS] = running, waiting, waiting_tokens

    # --- others read

    @property
    def beats(self) -> int:
        return self.words[_BEAT]

    @property
    def busy(self) -> bool:
        return bool(self.words[_BUSY])

    @property
    def steps(self) -> int:
        return self.words[_STEPS]

    @property
    def running(self) -> int:
        return self.words[_RUNNING]

    @property
    def waiting(self) -> int:
        return self.words[_WAITING]

    @property
    def waiting_tokens(self) -> int:
        return self.words[_WAITING_TOKENS]

    def step_age(self) -> float | None:
        """Seconds since a step was done; None before the first."""
        at = self.words[_STEP_AT]
        return (time.monotonic_ns() - at) / 1e9 if at else None

    def flying(self) -> frozenset[int]:
        """Sequences of the steps that have been launched and are not done, and those that are being taken in.

        While a grammar is built, which takes a moment, those that wait for it instead: steps go on beside it, and whoever
        has a long prompt in them would be there at each death. But not while something is taken in, which is shorter
        still: the next grammar is begun just when the last is given to those who waited for it.
        """
        heard, built = self._bank(_HEARD), self._bank(_BUILT)
        if built and not heard:
            return built
        return self._bank(_FLYING) | self._bank(_FLYING + _BANK) | heard

    def _bank(self, bank: int) -> frozenset[int]:
        return frozenset(self.words[bank + 1 : bank + 1 + min(self.words[bank], _BANK - 1)])

    def close(self) -> None:
        self._page.close()


class FrontPulse:
    """What a front writes of itself: that its event loop turns, and how much it waits for. An engine that is stopped while
    idle would not know."""

    def __init__(self, path: Path) -> None:
        self._page = Words(path, 8)

    @property
    def asked(self) -> int:
        """Sequences and questions that the engine has not answered."""
        return self._page.words[_ASKED]

    @asked.setter
    def asked(self, count: int) -> None:
        self._page.words[_ASKED] = count

    def beat(self) -> None:
        """The event loop has come round."""
        self._page.words[_TURNS] += 1

    @property
    def beats(self) -> int:
        return self._page.words[_TURNS]

    def close(self) -> None:
        self._page.close()
