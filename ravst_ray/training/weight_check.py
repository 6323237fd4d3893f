"""Which engines don't have the weights that were sent to all of them, by their versions and checksums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from ravst_ray.errors import AbortError


@dataclass(frozen=True, slots=True)
class Held:
    """The weights that an engine has: their version, and a checksum from each of its workers."""

    version: int
    checksums: tuple[str, ...] = ()


def behind(found: Mapping[int, Held], before: Mapping[int, Held], version: int) -> set[int]:
    """The names of engines that don't have a version.

    These are: any that says so; where the weights of some have changed, those whose weights haven't; of the rest, a
    minority whose checksums are others. Checksums of one engine alone, or the same everywhere as before, prove nothing
    (a step may change nothing: its rate may be 0).

    Args:
        found: what each engine has now.
        before: what each had before the update; some may be missing.
        version: what all should have.

    Raises:
        AbortError: checksums differ, and no majority tells which of them is right.
    """
    told = {name for name, held in found.items() if held.version != version}
    rest = {name: held.checksums for name, held in found.items() if name not in told}
    still = {name for name in rest if name in before and rest[name] == before[name].checksums}
    if any(name in before and name not in still for name in rest):
        told |= still
        rest = {name: sums for name, sums in rest.items() if name not in still}
    (right, votes), *others = Counter(rest.values()).most_common() or [((), 0)]
    if others and votes * 2 <= len(rest):
        raise AbortError(
            f"the weights of version {version} differ between engines ({len(others) + 1} kinds among {len(rest)}); "
            "a transfer went wrong, or the engines aren't all of one kind"
        )
    return told | {name for name, sums in rest.items() if sums != right}
