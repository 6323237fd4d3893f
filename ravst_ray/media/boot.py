"""Starts the decoder's child process: ``python -P boot.py MODULE_PATH FD PARENT_PID``.

``ravst_ray`` is its parent's, wherever that lies. The parent's other places for modules come after the interpreter's
own: one of them may be a working directory with an ``av.py`` or a ``types.py`` in it.
"""

from __future__ import annotations

import importlib.util
import os
import sys


def load_package(folder: str) -> None:
    """Import the package in ``folder``, whether the module path leads to it or not."""
    name, start = os.path.basename(folder), os.path.join(folder, "__init__.py")
    spec = importlib.util.spec_from_file_location(name, start, submodule_search_locations=[folder])
    assert spec is not None and spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


if __name__ == "__main__":
    sys.path.extend(place for place in sys.argv[1].split(os.pathsep) if place not in sys.path)
    load_package(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    from ravst_ray.media.child import main

    main(int(sys.argv[2]), int(sys.argv[3]))
