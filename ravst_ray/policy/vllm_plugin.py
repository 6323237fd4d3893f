"""What vLLM loads in each of its processes (entry point ``vllm.general_plugins``)."""

from __future__ import annotations

import multiprocessing
import os
import threading

BACKEND = "object_store"
_WATCH = "ravst-end-with-parent"


def register() -> None:
    """Make our weight transfer known to vLLM, and end its processes with ours; calling it twice does no harm."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, "ravst_ray.policy.weight_engine", "FileWeightEngine")
    end_with_parent()


def end_with_parent() -> None:
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
