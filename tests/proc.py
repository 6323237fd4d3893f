"""Other processes of this machine, as Linux shows them under /proc; one that ended shows nothing."""

import os
from pathlib import Path


def pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def command_line(pid: int) -> str:
    return _read(pid, "cmdline").replace("\0", " ")


def environment(pid: int) -> str:
    return _read(pid, "environ")


def ancestor(pid: int, generations: int = 1) -> int:
    """The parent, or its parent, and so on; 0 when one of them is gone."""
    for _ in range(generations):
        fields = _read(pid, "stat").rpartition(")")[2].split()
        pid = int(fields[1]) if fields else 0
    return pid


def open_files(pid: int) -> list[str]:
    try:
        return [os.readlink(place) for place in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return []


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")
    except OSError:
        return ""
