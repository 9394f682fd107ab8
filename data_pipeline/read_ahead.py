"""One stage of a pipeline in a thread of its own, a bounded distance ahead of its use.

Decoding, landmarks, JAX's waiting for a device and encoding all let other threads run
meanwhile, so a chain of such stages takes about as long as its slowest one.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def read_ahead(items: Iterable[T], capacity: int = 8) -> Iterator[T]:
    """Yields `items` in their order while a thread makes the next ones.

    The thread starts with the first item asked for. It has ended, and `items` is closed
    where it is a generator, when this generator is: at its end, on an exception on
    either side (Ctrl-C too), or by `close()`.

    Args:
      items: is iterated, and closed, in the thread only.
      capacity: items made but not yet taken, at most.

    Raises:
      whatever `items` raises, after the items that came before it.
    """
    free = threading.Semaphore(capacity)
    made: queue.SimpleQueue = queue.SimpleQueue()  # (is an item, item or exception)
    stopped = threading.Event()

    def make() -> None:
        try:
            with contextlib.ExitStack() as stack:
                if hasattr(items, "close"):
                    stack.callback(items.close)
                iterator = iter(items)
                while free.acquire() and not stopped.is_set():
                    try:
                        item = next(iterator)
                    except StopIteration:
                        break
                    made.put((True, item))
            made.put((False, None))
        except BaseException as error:
            made.put((False, error))

    thread = threading.Thread(target=make, name="read_ahead", daemon=True)
    thread.start()
    try:
        while True:
            is_item, value = made.get()
            if not is_item:
                break
            yield value
            free.release()
        if value is not None:
            raise value
    finally:
        stopped.set()
        free.release()  # lets a waiting thread see it
        thread.join()
