"""What a run takes, as tables: of one run for a terminal, of several configurations for the documentation.

python -m ravst_ray.training.memory_table jobs/configs/train_*.yaml        prints what docs/training.md shows
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from ravst_ray.config.base import load_config
from ravst_ray.config.train import TrainConfig
from ravst_ray.models.cards import GIB, Need
from ravst_ray.training.memory import Budget, estimate

CARDS = {"16 GB": 15.7, "24 GB": 22.5, "40 GB": 39.5, "48 GB": 44.9, "80 GB": 79.2, "141 GB": 139.8}
"""GiB that nvidia-smi shows of the smallest cards that are sold as such: T4, L4, A100, L40S, A100 and H100, H200."""
_COLUMNS = {
    "weights": ("of weights", "for cast weights"),
    "gradients": ("of gradients",),
    "Adam": ("of Adam's moments",),
    "gathered, buckets": ("for what is gathered", "for DDP's buckets"),
    "frozen tower": ("of the frozen tower",),
    "start model": ("of the start model",),
    "activations": ("of activations",),
    "logits": ("for logits beyond activations",),
    "features": ("of features",),
    "CUDA, engine": ("for CUDA", "of the sleeping engine"),
}


def smallest_card(budget: Budget) -> str:
    """The name of the smallest usual card on which a run fits; with a tenth of it left for what isn't counted."""
    fitting = (name for name, gib in CARDS.items() if budget.card <= 0.9 * gib * GIB)
    return next(fitting, f"{budget.card / 0.9 / GIB:.0f} GiB")


def budget_table(budget: Budget, config: TrainConfig, card_bytes: int | None = None) -> Table:
    """A run's parts, a section for each place.

    Args:
        budget: of the run.
        config: of the run.
        card_bytes: of the cards, where one is here.
    """
    table = Table(box=box.SIMPLE_HEAD, title="memory, estimated", title_justify="left", title_style="bold")
    table.add_column("where")
    table.add_column("what")
    table.add_column("GiB", justify="right")
    table.add_column("share", justify="right")
    engines = config.rollouts.bounds[1] * config.engine.tensor_parallel
    sections = [(f"a card that learns, of {config.learner.workers}", budget.learner)] if budget.learner_on_card else []
    sections += [(f"a card that samples, of {engines}", budget.engine)] if budget.engine_on_card else []
    for name, need in [*sections, ("main memory of all nodes", budget.host), ("disk", budget.disk)]:
        parts = [(what, size) for what, size in need.parts if size >= 0.05 * GIB]
        for row, (what, size) in enumerate(parts):
            share = "" if size < 0.005 * need.total else f"{size / need.total:4.0%}"
            table.add_row(name if not row else "", _plain(what), f"{size / GIB:.1f}", share)
        table.add_row("" if parts else name, "[bold]together[/]", f"[bold]{need.total / GIB:.1f}[/]", "")
        table.add_section()
    if budget.card:
        table.caption = f"cards of {smallest_card(budget)} or more: {_why(budget)}"
        if card_bytes:
            verdict = "enough" if budget.card <= card_bytes else "[bold red]TOO LITTLE[/]"
            table.caption += f"; the card here has {card_bytes / GIB:.1f} GiB: {verdict}"
        table.caption_justify = "left"
    return table


def _why(budget: Budget) -> str:
    awake = f", and {budget.states.total / GIB:.1f} GiB beside an engine awake" if budget.shared else ""
    share = f"; engines take {budget.share:g} of a card{awake}" if budget.engine_on_card else ""
    return f"{budget.card / GIB:.1f} GiB, and a tenth for what isn't counted{share}"


def markdown(configs: Sequence[tuple[str, TrainConfig]]) -> str:
    """Tables in Markdown, GiB: the learner's card by part, and what else each configuration takes."""
    known = [(name, config, budget) for name, config in configs if (budget := estimate(config)) and budget.card]
    header = ["configuration", "cards", *_COLUMNS, "together"]
    lines = [_row(header), _row(["---"] * len(header))]
    for name, config, budget in known:
        sizes = [_sum(budget.learner, kinds) for kinds in _COLUMNS.values()]
        lines.append(
            _row([f"`{name}`", str(config.learner.workers), *map(_gib, sizes), f"**{_gib(budget.learner.total)}**"])
        )
    header = ["configuration", "engines", "weights", "least of a card", "its share", "fits cards from", "main memory"]
    lines += ["", _row([*header, "disk"]), _row(["---"] * (len(header) + 1))]
    for name, config, budget in known:
        weights, host, disk = budget.engine.parts[0][1], budget.host.total, budget.disk.total
        own = [str(config.rollouts.bounds[1]), _gib(weights), _gib(budget.engine.total), f"{budget.share:g}"]
        lines.append(_row([f"`{name}`", *own, smallest_card(budget), f"{host / GIB:.0f}", f"{disk / GIB:.0f}"]))
    return "\n".join(lines) + "\n"


def _sum(need: Need, kinds: Sequence[str]) -> float:
    return sum(size for what, size in need.parts if what in kinds)


def _gib(size: float) -> str:
    return f"{size / GIB:.1f}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(what: str) -> str:
    return what.removeprefix("of ").removeprefix("for ")


if __name__ == "__main__":
    paths = [Path(name) for name in sys.argv[1:]]
    sys.stdout.write(markdown([(path.stem, load_config(TrainConfig, path, [])) for path in sorted(paths)]))
