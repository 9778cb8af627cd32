"""A million strings in the memory of their characters: a tuple of them takes three times as much, in each process."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class StringTable:
    """Strings by index, as the bytes of file names: whatever a name holds comes back."""

    joined: bytes
    borders: NDArray[np.int64]  # [len + 1]: where each begins, and where the last one ends

    @classmethod
    def of(cls, strings: Iterable[str]) -> "StringTable":
        encoded = [os.fsencode(string) for string in strings]
        borders = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(each) for each in encoded], out=borders[1:])
        return cls(b"".join(encoded), borders)

    def __len__(self) -> int:
        return len(self.borders) - 1

    def __getitem__(self, i: int) -> str:
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        start, end = self.borders[i % len(self) :][:2].tolist()
        return os.fsdecode(self.joined[start:end])

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))
