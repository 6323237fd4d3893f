"""Does GRPO make the toy policy better? One run a seed, greedy answers to unseen questions before and after.

    python -m tests.benchmarks.learning [key=value …] --out out/learning --seeds 1 2 3

Writes ``table.md`` and, by seed, the run, the predictions and their evaluation. What is there
already isn't done again. With ``--no-cues`` the policy is the one that hears, and only the sound tells what sounds.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from rich.console import Console

from ravst_ray.config.base import load_config
from ravst_ray.config.rewards import EvaluateConfig
from ravst_ray.config.train import TrainConfig
from ravst_ray.evaluation.baselines import best_trivial
from ravst_ray.evaluation.evaluate import evaluate
from ravst_ray.evaluation.paired import paired_rise, paired_table
from ravst_ray.evaluation.predict import asked_as_in, predict
from ravst_ray.toyworld.training.policy_omni import HEARING
from ravst_ray.toyworld.world import write_world
from ravst_ray.training.loop import train

TRAINED_ON, UNSEEN = (80, 8000), (48, 9000)  # videos and seed of the worlds; no checkpoint was made on either
SHOWN: tuple[tuple[str, str], ...] = (
    ("AVTR", "m_tIoU"),
    ("AVSR", "obj_acc"),
    ("AVSR", "m_vIoU"),
    ("AVSTR", "m_tIoU"),
    ("AVSTR", "obj_acc"),
    ("AVSTR", "m_vIoU"),
)
_RULE = "| --- "


def main() -> None:
    """Run what is missing, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/learning"))
    parser.add_argument("--config", default="jobs/configs/train_laptop.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--no-cues", dest="cues", action="store_false", help="worlds, and a policy, of sound")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    console = Console(stderr=True)
    worlds = {}
    for name, (videos, seed) in {"trained_on": TRAINED_ON, "unseen": UNSEEN}.items():
        worlds[name] = args.out / (name if args.cues else f"{name}_no_cues")
        if not (worlds[name] / "questions.json").exists():
            write_world(worlds[name], videos, seed, cues=args.cues)
    places = [f"data.annotations={worlds['trained_on']}/questions.json", f"data.videos={worlds['trained_on']}/videos"]
    if not args.cues:  # a second of sound has 25 tokens
        places += [f"model={HEARING}", "engine.max_model_len=1536"]
    truth = worlds["unseen"] / "questions.json"
    rises, metrics = [], []
    for seed in args.seeds:
        out = args.out / f"seed_{seed}"
        config = load_config(TrainConfig, args.config, [*places, f"output={out}", f"seed={seed}", *args.overrides])
        compared = EvaluateConfig(**config.reward.model_dump())
        before, after = args.out / "before.jsonl", out / "after.jsonl"
        predict(truth, worlds["unseen"] / "videos", before, asked_as_in(config, config.model), console)
        first = evaluate(before, truth, args.out / "before", compared)
        minutes = out / "minutes.txt"
        if not minutes.exists():
            started = time.monotonic()
            train(config, console, resume=(out / "metrics.jsonl").exists())
            minutes.write_text(f"{(time.monotonic() - started) / 60:.1f}")
        predict(truth, worlds["unseen"] / "videos", after, asked_as_in(config, str(out / "model")), console)
        second = evaluate(after, truth, out / "evaluation", compared)
        rise = paired_rise(before, after, truth, config.reward)
        console.print(paired_table(first, second, rise))
        rises.append(
            f"| {seed} | {rise.before:.3f} | {rise.after:.3f} | {rise.share:+.0%} | "
            f"[{rise.low:+.3f}, {rise.high:+.3f}] | {rise.format_before:.3f}, {rise.format_after:.3f} | "
            f"{minutes.read_text()} |"
        )
        metrics.append([f"{first[task][name]:.1f} → {second[task][name]:.1f}" for task, name in SHOWN])
    trivial = [f"{best_trivial(second['baselines'], task, name)[0]:.1f}" for task, name in SHOWN]
    text = (
        f"Reward without its format part over {rise.questions} unseen questions, greedy answers.\n\n"
        "| seed | before | after | rise | paired 95% interval | format | minutes |\n"
        f"{_RULE * 7}|\n" + "\n".join(rises) + "\n\n| seed |"
    )
    text += "".join(f" {task} {name} |" for task, name in SHOWN) + f"\n{_RULE * (len(SHOWN) + 1)}|\n"
    for name, cells in [*zip(args.seeds, metrics, strict=True), ("best trivial answer", trivial)]:
        text += f"| {name} | {' | '.join(cells)} |\n"
    (args.out / "table.md").write_text(text)
    console.print(text, markup=False)


if __name__ == "__main__":
    main()
