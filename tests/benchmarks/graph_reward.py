"""Does the graph's reward help? GRPO of the toy policy that writes graphs, with it and without, on unseen scenes.

    python -m tests.benchmarks.graph_reward [key=value …] --out out/graph_reward --seeds 1 2 3

One run a seed and arm, of as many steps; greedy replies to unseen questions before and after. Writes ``table.md``, and
by seed and arm the run and its predictions. What is there already isn't done again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from ravst_ray.config.base import load_config
from ravst_ray.config.make_str import StrRules
from ravst_ray.config.rewards import RewardConfig
from ravst_ray.config.train import TrainConfig
from ravst_ray.core.names import NameMatcher
from ravst_ray.datasets.questions import read_questions
from ravst_ray.datasets.scenes.toy import ToyReader
from ravst_ray.evaluation.paired import paired_interval
from ravst_ray.evaluation.predict import asked_as_in, predict
from ravst_ray.evaluation.scoring import make_rubric, read_lines
from ravst_ray.questions.make import questions_of
from ravst_ray.records import QAPair
from ravst_ray.tasks import task_of
from ravst_ray.tasks.protocols import Exam
from ravst_ray.toyworld.training.graph_questions import RULES
from ravst_ray.toyworld.world import write_world
from ravst_ray.training.loop import train

TASK = "STR"
WORLDS = {"trained_on": (80, 8100, 6), "unseen": (60, 9100, 3)}
"""Videos, seed, and questions of a kind and video; no checkpoint was made on either world."""
ARMS: dict[str, tuple[str, ...]] = {
    "with the graph": (),
    "without": (f"reward.weights.{TASK}.node=0", f"reward.weights.{TASK}.edge=0"),
}
PARTS = ("answer", "node", "edge", "format")
Values = dict[str, np.ndarray]


def make_world(folder: Path, videos: int, seed: int, per_kind: int) -> None:
    """Videos, and ``questions.jsonl`` about them."""
    write_world(folder, videos, seed)
    asking = {**RULES.questions.model_dump(), "per_kind": per_kind}
    rules = StrRules.model_validate({"seed": seed, "questions": asking})
    reader = ToyReader()
    rows = [row for ref in reader.list(str(folder)) for row in questions_of(reader.read(ref), rules)[0]]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def values_of(predictions: Path, pairs: Sequence[QAPair], config: RewardConfig) -> Values:
    """Each part of each question's reward, ``[N]``; a question without a reply counts 0."""
    rubric = make_rubric(config)
    said = {
        line["id"]: line["prediction"] for line in read_lines(predictions, ["prediction"], {p.qa_id for p in pairs})
    }
    scored = [rubric.parts(TASK, said.get(pair.qa_id, ""), pair.answer)[0] for pair in pairs]
    return {part: np.array([one[part] for one in scored]) for part in PARTS}


def trivial_scores(pairs: Sequence[QAPair], durations_s: Mapping[str, float], config: RewardConfig) -> np.ndarray:
    """The answer's score of the trivial answer that fits each question, ``[N]``."""
    task, rubric = task_of(TASK), make_rubric(config)
    exam = Exam(pairs, {pair.qa_id: task.parse(pair.answer) for pair in pairs}, durations_s)
    best = dict.fromkeys((pair.qa_id for pair in pairs), 0.0)
    truths = exam.truths
    for answers in task.trivial_answers(exam).values():
        for qa_id, answer in answers.items():
            score = task.measure(truths[qa_id], answer, NameMatcher(), rubric.config)["score"]
            best[qa_id] = max(best[qa_id], score)
    return np.array([best[pair.qa_id] for pair in pairs])


def interval(differences: np.ndarray) -> str:
    """Mean and 95% interval of paired differences ``[N]``."""
    low, high = paired_interval(differences)
    return f"{differences.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


def table(before: Values, after: Mapping[tuple[int, str], Values], kinds: np.ndarray, trivial: np.ndarray) -> str:
    """Markdown: every seed; means over seeds by arm with the interval of their difference; and by kind."""
    seeds = sorted({seed for seed, _ in after})
    mean = {arm: {part: np.mean([after[seed, arm][part] for seed in seeds], 0) for part in PARTS} for arm in ARMS}
    one, other = ARMS
    lines = [f"{len(kinds)} unseen questions, greedy replies; before: the policy as it is trained from.", ""]
    lines += ["| seed | " + " | ".join(f"{part}, {arm}" for part in PARTS for arm in ARMS) + " |"]
    lines += ["| --- " * (1 + len(PARTS) * len(ARMS)) + "|"]
    for seed in seeds:
        cells = [f"{before[part].mean():.3f} → {after[seed, arm][part].mean():.3f}" for part in PARTS for arm in ARMS]
        lines += [f"| {seed} | " + " | ".join(cells) + " |"]
    lines += [
        "",
        f"| mean of {len(seeds)} seeds | before | {one} | {other} | difference (paired 95% interval) | trivial |",
    ]
    lines += ["| --- " * 6 + "|"]
    for part in PARTS:
        shown = f"{trivial.mean():.3f}" if part == "answer" else ""
        lines.append(_row(part, before[part], mean[one][part], mean[other][part], shown))
    for kind in sorted(set(kinds.tolist())):
        own = kinds == kind
        values = (before["answer"][own], mean[one]["answer"][own], mean[other]["answer"][own])
        lines.append(_row(f"answer, {kind} ({own.sum()})", *values, f"{trivial[own].mean():.3f}"))
    return "\n".join(lines) + "\n"


def _row(name: str, before: np.ndarray, one: np.ndarray, other: np.ndarray, trivial: str) -> str:
    means = " | ".join(f"{values.mean():.3f}" for values in (before, one, other))
    return f"| {name} | {means} | {interval(one - other)} | {trivial} |"


def main() -> None:
    """Run what is missing, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/graph_reward"))
    parser.add_argument("--config", default="jobs/configs/train_str_laptop.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    console = Console(stderr=True)
    worlds = {name: args.out / name for name in WORLDS}
    for name, sizes in WORLDS.items():
        if not (worlds[name] / "questions.jsonl").exists():
            make_world(worlds[name], *sizes)
    places = [f"data.annotations={worlds['trained_on']}/questions.jsonl", f"data.videos={worlds['trained_on']}/videos"]
    truth, videos = worlds["unseen"] / "questions.jsonl", worlds["unseen"] / "videos"
    pairs, durations_s = read_questions(truth)
    minutes: defaultdict[str, list[float]] = defaultdict(list)
    after: dict[tuple[int, str], Values] = {}
    for seed in args.seeds:
        for number, (arm, changes) in enumerate(ARMS.items()):
            out = args.out / f"seed_{seed}_{number}"
            given = [*places, f"output={out}", f"seed={seed}", *changes, *args.overrides]
            config = load_config(TrainConfig, args.config, given)
            predict(truth, videos, args.out / "before.jsonl", asked_as_in(config, config.model), console)
            if not (out / "minutes.txt").exists():
                started = time.monotonic()
                train(config, console, resume=(out / "metrics.jsonl").exists())
                (out / "minutes.txt").write_text(f"{(time.monotonic() - started) / 60:.1f}")
            minutes[arm].append(float((out / "minutes.txt").read_text()))
            predict(truth, videos, out / "after.jsonl", asked_as_in(config, str(out / "model")), console)
            after[seed, arm] = values_of(out / "after.jsonl", pairs, config.reward)
    before = values_of(args.out / "before.jsonl", pairs, config.reward)
    kinds = np.array([pair.kind for pair in pairs])
    text = table(before, after, kinds, trivial_scores(pairs, durations_s, config.reward))
    text += "\nMinutes a run: " + "; ".join(f"{arm} {min(m):.1f}-{max(m):.1f}" for arm, m in minutes.items()) + ".\n"
    (args.out / "table.md").write_text(text)
    console.print(text, markup=False)


if __name__ == "__main__":
    main()
