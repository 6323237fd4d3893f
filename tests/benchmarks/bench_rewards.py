"""Rewards a second on one core, and the metrics of 10,000 questions. Prints tables, asserts nothing."""

import time
from itertools import cycle, islice
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ravst_ray.core.answers import ObjectAnswer, parse, render
from ravst_ray.core.names import NameMatcher
from ravst_ray.datasets.ravst_json import read_questions
from ravst_ray.evaluation.metrics import score_question, summarise
from ravst_ray.records import QAPair
from ravst_ray.rewards import paper_compat
from ravst_ray.tasks import TASKS
from ravst_ray.tasks.rubric import Rubric

PUBLISHED = Path(__file__).resolve().parents[3] / "shared" / "data" / "ravst_test_annotations.json"


def questions() -> tuple[list[QAPair], str]:
    """The published questions where they lie beside the checkout, else made-up ones of their mean length."""
    if PUBLISHED.exists():
        return read_questions(PUBLISHED)[0], "published answers"
    lines = tuple((float(second), (10.0, 20.0, 110.0 + second, 220.0)) for second in range(25))
    answer = render([ObjectAnswer("A man", (0.0, 25.0), lines)])
    return [QAPair(f"v/1/AVSTR/{n}", "v", 1, "AVSTR", "", answer) for n in range(1000)], "made-up answers"


def main() -> None:
    """Run all."""
    pairs, kind = questions()
    table = Table("what", "per second", "seconds", title=f"one core (CPU seconds), {len(pairs)} {kind}")
    rubric, names = Rubric(), NameMatcher()
    runs = {
        "parse": lambda pair: parse(pair.answer),
        "reward, all four parts, truth new": lambda pair: rubric.score(pair.task, pair.answer, pair.answer),
        "reward, all four parts, truth seen": lambda pair: rubric.score(pair.task, pair.answer, pair.answer),
        "paper_compat": lambda pair: paper_compat.spatial_temporal_score(pair.task, pair.answer, pair.answer),
    }
    for name, run in runs.items():
        started = time.process_time()
        for pair in pairs:
            run(pair)
        spent = time.process_time() - started
        table.add_row(name, f"{len(pairs) / spent:,.0f}", f"{spent:.2f}")
    many = list(islice(cycle(pairs), 10_000))
    started = time.process_time()
    scores = [score_question(pair, parse(pair.answer), parse(pair.answer), names) for pair in many]
    summarise(scores, TASKS, bootstrap=1000)
    spent = time.process_time() - started
    table.add_row("metrics of 10,000 questions, 1,000 resamples", f"{len(many) / spent:,.0f}", f"{spent:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
