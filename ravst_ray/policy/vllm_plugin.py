"""What vLLM loads in each of its processes (entry point ``vllm.general_plugins``)."""

from __future__ import annotations

import multiprocessing
import os
import threading

_WATCH = "ravst-end-with-parent"


def register() -> None:
    """End this process, if vLLM has started it, as soon as the one that did is gone.

    vLLM's engine doesn't notice a parent that is killed, and would hold its memory, a card's too, for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is None or any(thread.name == _WATCH for thread in threading.enumerate()):
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name=_WATCH, daemon=True).start()
