"""A cache bounded by bytes, least recently used first out; safe to share between threads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any, Generic, TypeVar

from numpy.typing import NDArray

ArrayT = TypeVar("ArrayT", bound=NDArray[Any])


class ArrayCache(Generic[ArrayT]):
    """Keeps arrays up to ``limit`` bytes. Arrays come out read-only, because they are shared.

    Unlike ``cachetools.LRUCache`` it keeps one array that is larger than the limit, may be shared between threads and
    may be pickled.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._items: OrderedDict[Hashable, ArrayT] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], ArrayT]) -> ArrayT:
        """The array under ``key``, made when it is not there. An error of ``make`` is not remembered."""
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
                return self._items[key]
        array = make()
        array.flags.writeable = False
        with self._lock:
            if key not in self._items:
                self._items[key] = array
                self._bytes += array.nbytes
            while self._bytes > self.limit and len(self._items) > 1:
                _, dropped = self._items.popitem(last=False)
                self._bytes -= dropped.nbytes
        return array

    def __reduce__(self) -> tuple[type[ArrayCache[Any]], tuple[int]]:
        # A copy in another process starts empty: what is cached can be decoded again.
        return ArrayCache, (self.limit,)
