"""Disjoint sets of numbered members that are joined pair by pair."""

import numpy as np
from numpy.typing import NDArray


class DisjointSets:
    """Disjoint sets: each member leads to an earlier one of its set, the first to itself."""

    def __init__(self, count: int) -> None:
        self.towards = np.arange(count)

    def roots(self, members: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the first member of the set of each member."""
        roots = self.towards[members]
        while not np.array_equal(roots, further := self.towards[roots]):
            roots = further
        self.towards[members] = roots
        return roots

    def join(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> None:
        """Make one set of those of a and of b, pair by pair."""
        for member, other in zip(a.tolist(), b.tolist()):
            root, other = self._root(member), self._root(other)
            self.towards[max(root, other)] = min(root, other)

    def _root(self, member: int) -> int:
        while (earlier := int(self.towards[member])) != member:
            self.towards[member] = member = int(self.towards[earlier])
        return member
