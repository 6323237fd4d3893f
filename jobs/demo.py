"""``make demo``: annotate a toy world, train on what came out of it, and look whether both were any good."""

import json
import shutil
import sys
from pathlib import Path

from rich.console import Console

from ravst_ray.annotate.run import annotate, refresh_report
from ravst_ray.config.annotate import AnnotateConfig
from ravst_ray.config.base import load_config
from ravst_ray.config.rewards import EvaluateConfig
from ravst_ray.config.train import TrainConfig
from ravst_ray.datasets.store import DatasetStore
from ravst_ray.errors import RavstError
from ravst_ray.evaluation.evaluate import evaluate
from ravst_ray.evaluation.paired import paired_rise, paired_table
from ravst_ray.evaluation.predict import asked_as_in, predict
from ravst_ray.logs import setup_logging
from ravst_ray.surroundings import prepare_surroundings
from ravst_ray.toyworld.accuracy import accuracy_of, accuracy_table, name_objects
from ravst_ray.toyworld.world import write_world
from ravst_ray.training.loop import train

CONFIGS = Path(__file__).parent / "configs"
OUT = Path("out/demo")
VIDEOS, SEED, UNSEEN_SEED = 16, 2026, 2027  # scenes that no checkpoint was trained on
STEPS = 24


def annotated(console: Console) -> Path:
    """Annotate a toy world twice and compare with its exact truth; gives the report."""
    world = OUT / "world"
    console.rule(f"1 · a toy world of {VIDEOS} videos")
    write_world(world, videos=VIDEOS, seed=SEED)
    steps = "filter, captions (SmolLM2 on vLLM), grounding (DINO + SAM 2), questions, quality"
    runs = {
        "dataset": (f"2 · annotate: {steps}", world / "unav100_annotations.json"),
        "true_names": (
            "3 · the same with the true object names, to tell the models' errors apart",
            name_objects(world),
        ),
    }
    for name, (title, labels) in runs.items():
        console.rule(title)
        places = [f"input.annotations={labels}", f"input.videos={world / 'videos'}", f"output={OUT / name}"]
        config = load_config(AnnotateConfig, CONFIGS / "annotate_laptop.yaml", places)
        annotate(config, console)
        if name == "dataset":
            shown = config
    truth = json.loads((world / "truth.json").read_text())
    accuracy = accuracy_of(truth, DatasetStore(str(OUT / "true_names")), DatasetStore(str(OUT / "dataset")))
    refresh_report(shown, {"toy_accuracy": accuracy})
    console.rule("4 · accuracy against the toy world's exact truth")
    console.print(accuracy_table(accuracy))
    return OUT / "dataset" / "report" / "index.html"


def trained(console: Console) -> list[Path]:
    """Train the toy policy on the annotated dataset, and ask both about unseen scenes; gives the reports."""
    unseen = OUT / "unseen"
    write_world(unseen, videos=VIDEOS, seed=UNSEEN_SEED)
    questions = unseen / "questions.json"
    config = load_config(
        TrainConfig, CONFIGS / "train_laptop.yaml", [f"output={OUT / 'train'}", f"max_steps={STEPS}", "save_every=12"]
    )
    console.rule("5 · the toy policy (a tiny Qwen2.5-VL) answers questions about 16 unseen videos")
    before = OUT / "before.jsonl"
    predict(questions, unseen / "videos", before, asked_as_in(config, config.model), console)
    console.rule(f"6 · GRPO: {STEPS} steps on the dataset that was just annotated")
    train(config, console)
    console.rule("7 · the trained policy answers the same questions")
    after = OUT / "after.jsonl"
    predict(questions, unseen / "videos", after, asked_as_in(config, str(OUT / "train" / "model")), console)
    compared = EvaluateConfig(**config.reward.model_dump())
    first, second = (evaluate(path, questions, OUT / f"evaluation_{path.stem}", compared) for path in (before, after))
    console.print(paired_table(first, second, paired_rise(before, after, questions, config.reward)))
    return [OUT / "train" / "report.html", OUT / "evaluation_after" / "index.html"]


def main() -> int:
    """The whole demo; returns the exit status."""
    setup_logging("WARNING")
    prepare_surroundings()
    console = Console(stderr=True, highlight=False)
    shutil.rmtree(OUT, ignore_errors=True)
    try:
        reports = [annotated(console), *trained(console)]
    except RavstError as error:
        console.print(f"demo: {error}", style="red")
        return 1
    for title, path in zip(("the annotated dataset", "the training", "the trained policy"), reports, strict=True):
        console.print(f"{title}: {path.absolute()}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
