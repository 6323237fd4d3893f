"""``make demo``: annotate a toy world, compare with its exact truth; then train on what was annotated, and evaluate."""

import json
import shutil
import sys
from pathlib import Path

from rich.console import Console

from ravst_ray.annotate.run import annotate, refresh_report
from ravst_ray.cluster import start_ray
from ravst_ray.config.annotate import AnnotateConfig
from ravst_ray.config.base import load_config
from ravst_ray.config.train import TrainConfig
from ravst_ray.datasets.store import DatasetStore
from ravst_ray.errors import RavstError
from ravst_ray.evaluation.evaluate import evaluate
from ravst_ray.evaluation.paired import paired_rise, paired_table
from ravst_ray.evaluation.predict import asked_as_in, predict
from ravst_ray.logs import setup_logging
from ravst_ray.toyworld.accuracy import accuracy_of, accuracy_table, name_objects
from ravst_ray.toyworld.world import write_world
from ravst_ray.training.loop import train

CONFIGS = Path(__file__).parent / "configs"
OUT = Path("out/demo")
VIDEOS, SEED = 16, 2026  # scenes that no checkpoint was trained on
UNSEEN, UNSEEN_SEED = 16, 2027
STEPS = 24


def run(console: Console, annotations: Path, output: Path) -> AnnotateConfig:
    """One annotation run as ``ravst annotate`` would do it."""
    places = [f"input.annotations={annotations}", f"input.videos={OUT / 'world' / 'videos'}", f"output={output}"]
    config = load_config(AnnotateConfig, CONFIGS / "annotate_laptop.yaml", places)
    annotate(config, console)
    return config


def annotated(console: Console) -> None:
    """Annotate a world with the language model's names and with the true ones, and compare both with the truth."""
    world = OUT / "world"
    console.rule(f"1 · a toy world of {VIDEOS} videos")
    write_world(world, videos=VIDEOS, seed=SEED)
    console.rule("2 · annotate: filter, captions (SmolLM2 on vLLM), grounding (DINO + SAM 2), questions, quality")
    config = run(console, world / "unav100_annotations.json", OUT / "dataset")
    console.rule("3 · the same with the true object names, to tell the models' errors apart")
    run(console, name_objects(world), OUT / "true_names")
    truth = json.loads((world / "truth.json").read_text())
    accuracy = accuracy_of(truth, DatasetStore(str(OUT / "true_names")), DatasetStore(str(OUT / "dataset")))
    refresh_report(config, {"toy_accuracy": accuracy})
    console.rule("4 · accuracy against the toy world's exact truth")
    console.print(accuracy_table(accuracy))


def trained(console: Console) -> None:
    """Train the toy policy on the dataset of :func:`annotated`; its answers before and after to unseen scenes."""
    unseen, output = OUT / "unseen", OUT / "train"
    places = [f"data.annotations={OUT / 'dataset' / 'ravst_train_QA.json'}", f"data.videos={OUT / 'world' / 'videos'}"]
    places += [f"output={output}", f"max_steps={STEPS}", f"save_every={STEPS}"]
    config = load_config(TrainConfig, CONFIGS / "train_laptop.yaml", places)
    console.rule(f"5 · what the toy policy answers about {UNSEEN} unseen videos")
    write_world(unseen, videos=UNSEEN, seed=UNSEEN_SEED)
    questions = unseen / "questions.json"
    found = {}
    for name, model in (("before", config.model), ("after", str(output / "model"))):
        if name == "after":
            console.rule(f"6 · {STEPS} steps of GRPO on the annotated dataset: vLLM rollouts, a TRL learner")
            train(config, console)
            console.rule("7 · what it answers now")
        path = OUT / "evaluation" / f"{name}.jsonl"
        predict(questions, unseen / "videos", path, asked_as_in(config, model), console)
        found[name] = (path, evaluate(path, questions, path.with_suffix("")))
    (before, first), (after, second) = found["before"], found["after"]
    console.print(paired_table(first, second, paired_rise(before, after, questions)))


def main() -> int:
    """The whole demo; returns the exit status."""
    setup_logging("WARNING")
    console = Console(stderr=True, highlight=False)
    shutil.rmtree(OUT, ignore_errors=True)
    try:
        start_ray(dashboard=True)
        annotated(console)
        trained(console)
    except RavstError as error:
        console.print(f"demo: {error}", style="red")
        return 1
    for name, page in (
        ("annotation", "dataset/report/index.html"),
        ("training", "train/report.html"),
        ("evaluation", "evaluation/after/index.html"),
    ):
        console.print(f"{name} report: {(OUT / page).absolute()}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
