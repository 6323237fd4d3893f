"""``make demo``: annotate a toy world from end to end, compare with its exact truth, show the report."""

import json
import shutil
import sys
from pathlib import Path

from rich.console import Console

from ravst_ray.annotate.run import annotate, refresh_report
from ravst_ray.config.annotate import AnnotateConfig
from ravst_ray.config.base import load_config
from ravst_ray.datasets.store import DatasetStore
from ravst_ray.errors import RavstError
from ravst_ray.logs import setup_logging
from ravst_ray.toyworld.accuracy import accuracy_of, accuracy_table, name_objects
from ravst_ray.toyworld.world import write_world

CONFIG = Path(__file__).parent / "configs" / "annotate_laptop.yaml"
OUT = Path("out/demo")
VIDEOS, SEED = 16, 2026  # scenes that no checkpoint was trained on


def run(console: Console, annotations: Path, output: Path) -> AnnotateConfig:
    """One annotation run as ``ravst annotate`` would do it."""
    places = [f"input.annotations={annotations}", f"input.videos={OUT / 'world' / 'videos'}", f"output={output}"]
    config = load_config(AnnotateConfig, CONFIG, places)
    annotate(config, console)
    return config


def main() -> int:
    """The whole demo; returns the exit status."""
    setup_logging("WARNING")
    console = Console(stderr=True, highlight=False)
    shutil.rmtree(OUT, ignore_errors=True)
    world = OUT / "world"
    console.rule(f"1 · a toy world of {VIDEOS} videos")
    write_world(world, videos=VIDEOS, seed=SEED)
    try:
        console.rule("2 · annotate: filter, captions (SmolLM2 on vLLM), grounding (DINO + SAM 2), questions, quality")
        config = run(console, world / "unav100_annotations.json", OUT / "dataset")
        console.rule("3 · the same with the true object names, to tell the models' errors apart")
        run(console, name_objects(world), OUT / "true_names")
    except RavstError as error:
        console.print(f"demo: {error}", style="red")
        return 1
    truth = json.loads((world / "truth.json").read_text())
    accuracy = accuracy_of(truth, DatasetStore(str(OUT / "true_names")), DatasetStore(str(OUT / "dataset")))
    refresh_report(config, {"toy_accuracy": accuracy})
    console.rule("4 · accuracy against the toy world's exact truth")
    console.print(accuracy_table(accuracy))
    console.print(f"report: {(OUT / 'dataset' / 'report' / 'index.html').absolute()}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
