"""``ravst``: parses first, imports what a command needs last."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ravst_ray import cli_help
from ravst_ray.errors import ConfigError, RavstError

Run = Callable[[argparse.Namespace], None]
EXIT_OK, EXIT_ABORTED, EXIT_BAD_CONFIG = 0, 1, 2
_QUESTIONS = "questions: R-AVST's JSON, or rows (.jsonl, .parquet)"

_AGAIN = dict.fromkeys(("annotate", "retry", "predict", "make-str"), "the same command goes on from here") | (
    dict.fromkeys(("train", "train-sft"), "the same command with --resume goes on from its last checkpoint")
)


def _annotate(args: argparse.Namespace) -> None:
    from rich.console import Console

    from ravst_ray.annotate.run import annotate
    from ravst_ray.config.annotate import AnnotateConfig
    from ravst_ray.config.base import load_config

    annotate(load_config(AnnotateConfig, args.config, args.overrides), Console(stderr=True))


def _status(args: argparse.Namespace) -> None:
    from ravst_ray.annotate.status import read_status

    status = read_status(args.output)
    sys.stdout.write((status.to_json() if args.json else status.to_text()) + "\n")


def _retry(args: argparse.Namespace) -> None:
    from rich.console import Console

    from ravst_ray.annotate.run import retry

    retry(args.output, args.reason, args.overrides, Console(stderr=True))


def _review(args: argparse.Namespace) -> None:
    import getpass
    import os

    from ravst_ray.config.base import load_config
    from ravst_ray.config.review import PredictionsConfig, ReviewConfig
    from ravst_ray.review.run import serve, serve_predictions

    token = args.token or os.environ.get("RAVST_REVIEW_TOKEN") or None
    given = {"host": args.host, "port": args.port, "token": token, "videos": args.videos}
    flags = [f"{name}={value}" for name, value in given.items() if value is not None]
    if args.predictions or args.annotations:
        if not (args.predictions and args.annotations):
            raise ConfigError("--predictions and --annotations go together: answers, and the questions with the truth")
        settings = [*([args.output] if args.output else []), *args.overrides]
        if wrong := [one for one in settings if "=" not in one]:
            raise ConfigError(f"{wrong[0]}: with --predictions there is no OUT; two runs are two --predictions")
        config = load_config(PredictionsConfig, None, [*flags, *settings])
        return serve_predictions(args.predictions, args.annotations, config, _say)
    if args.output is None:
        raise ConfigError("name OUT, an output of ravst annotate, or answers: --predictions F.jsonl --annotations F")
    who = f"reviewer={args.reviewer or getpass.getuser()}"
    serve(args.output, load_config(ReviewConfig, None, [who, *flags, *args.overrides]), _say)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _export(args: argparse.Namespace) -> None:
    from rich.console import Console

    from ravst_ray.datasets.exports.run import export
    from ravst_ray.review.apply import Reviser, card_figures

    revise = Reviser(args.output)
    for problem in revise.problems:
        _say(f"of the verdicts: {problem}")
    review = card_figures(args.output) if revise.touched else None
    export(args.output, args.to, args.format, Console(stderr=True), args.statuses, args.videos, revise, review)


def _toyworld(args: argparse.Namespace) -> None:
    from rich.console import Console

    from ravst_ray.toyworld.world import write_world

    console = Console(stderr=True)
    write_world(args.out, videos=args.videos, seed=args.seed, hard=args.hard, cues=args.cues)
    console.print(f"{args.videos} videos, their labels and their truth: {args.out}", highlight=False, soft_wrap=True)


def _score(args: argparse.Namespace) -> None:
    from ravst_ray.config.base import load_config
    from ravst_ray.config.rewards import RewardConfig
    from ravst_ray.evaluation.scoring import score_file

    score_file(args.completions, args.annotations, args.out, load_config(RewardConfig, args.config, args.overrides))


def _predict(args: argparse.Namespace) -> None:
    from rich.console import Console

    from ravst_ray.config.base import load_config
    from ravst_ray.config.video_llm import PredictConfig
    from ravst_ray.datasets.tasks import read_tasks
    from ravst_ray.evaluation.predict import predict, predict_dry_run

    read: Any
    model = [f"engine.model={args.model}"] if args.model else []
    if args.benchmark:
        from functools import partial

        from ravst_ray.evaluation.benchmarks import benchmark_of
        from ravst_ray.evaluation.benchmarks.files import benchmark_tasks

        benchmark = benchmark_of(args.benchmark)
        config = load_config(PredictConfig, args.config, [*benchmark.settings, *model, *args.overrides])
        read = partial(benchmark_tasks, benchmark)
    else:
        config, read = load_config(PredictConfig, args.config, [*model, *args.overrides]), read_tasks
    work = predict_dry_run if args.dry_run else predict
    work(args.annotations, args.videos, args.out, config, Console(stderr=True), read)


def _train(args: argparse.Namespace) -> None:
    from rich.console import Console

    from ravst_ray.config.base import load_config
    from ravst_ray.config.train import TrainConfig

    config = load_config(TrainConfig, args.config, args.overrides)
    if args.dry_run:
        from ravst_ray.training.dry_run import dry_run

        return dry_run(config, Console())
    from ravst_ray.training.loop import train

    console = Console(stderr=True)
    model = train(config, console, args.resume)
    console.print(f"the trained model: {model}", highlight=False, soft_wrap=True)


def _export_model(args: argparse.Namespace) -> None:
    from ravst_ray.training.export import export_model

    place = export_model(args.output, args.step, args.best, args.to)
    sys.stdout.write(f"the model: {place}\n")


def _train_sft(args: argparse.Namespace) -> None:
    from rich.console import Console

    from ravst_ray.config.base import load_config
    from ravst_ray.config.sft import SftRunConfig

    config = load_config(SftRunConfig, args.config, args.overrides)
    if args.dry_run:
        from ravst_ray.training.dry_run import sft_dry_run

        return sft_dry_run(config, Console())
    from ravst_ray.training.sft_run import train_sft

    console = Console(stderr=True)
    model = train_sft(config, console, args.resume)
    console.print(f"the fine-tuned model: {model}", highlight=False, soft_wrap=True)


def _make_str(args: argparse.Namespace) -> None:
    from rich.console import Console

    from ravst_ray.config.base import load_config
    from ravst_ray.config.make_str import MakeStrConfig
    from ravst_ray.questions.run import make_str

    make_str(load_config(MakeStrConfig, args.config, args.overrides), Console(stderr=True))


def _evaluate(args: argparse.Namespace) -> None:
    from rich.console import Console

    from ravst_ray.config.base import load_config

    if args.benchmark:
        return _evaluate_benchmark(args)
    from ravst_ray.config.rewards import EvaluateConfig
    from ravst_ray.evaluation.evaluate import evaluate
    from ravst_ray.tasks import TASKS

    config = load_config(EvaluateConfig, args.config, args.overrides)
    metrics = evaluate(args.predictions, args.annotations, args.out, config)
    console = Console()
    for task in TASKS:
        if task in metrics:
            shares = {key: value for key, value in metrics[task].items() if isinstance(value, float)}
            line = ", ".join(f"{key} {value:.2f}" for key, value in shares.items())
            console.print(f"{task}: n {metrics[task]['n']}, {line}", highlight=False, soft_wrap=True)
    console.print(f"with baselines and the paper's rows: {args.out}/index.html, {args.out}/table.md", soft_wrap=True)


def _evaluate_benchmark(args: argparse.Namespace) -> None:
    from rich.console import Console

    from ravst_ray.config.base import load_config
    from ravst_ray.config.benchmarks import BenchmarkConfig
    from ravst_ray.evaluation.benchmarks import benchmark_of
    from ravst_ray.evaluation.benchmarks.run import evaluate_benchmark

    benchmark = benchmark_of(args.benchmark)
    config = load_config(BenchmarkConfig, args.config, args.overrides)
    metrics = evaluate_benchmark(benchmark, args.predictions, args.annotations, args.out, config)
    console = Console()
    for name, values in (("this run", metrics["ours"]), ("by the published code", metrics["official"])):
        known = [f"{key} {values[key]:.2f}" for key in benchmark.headline if values.get(key) is not None]
        console.print(f"{benchmark.title}, {name}: {', '.join(known)}", highlight=False, soft_wrap=True)
    console.print(f"with trivial and published rows: {args.out}/index.html, {args.out}/table.md", soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ravst",
        description="What makes a sound, when, and where in the picture: annotate, train, predict, score, evaluate.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, run: Run, text: str, config: bool | None) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            help=text.splitlines()[0],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=run)
        if config is not None:
            command.add_argument("--config", required=config, metavar="FILE", help="YAML file with the settings")
            command.add_argument("overrides", nargs="*", metavar="key.sub=value", help="settings that override it")
        return command

    add("annotate", _annotate, cli_help.ANNOTATE, config=True)
    status = add("status", _status, cli_help.STATUS, config=None)
    status.add_argument("output", metavar="OUT", help="output directory of a run, here or in an object store")
    status.add_argument("--json", action="store_true", help="for programs")
    retry = add("retry", _retry, cli_help.RETRY, config=None)
    retry.add_argument("output", metavar="OUT", help="output directory of a run")
    retry.add_argument("overrides", nargs="*", metavar="key.sub=value", help="settings to change")
    retry.add_argument("--reason", nargs="+", default=[], help="only videos that failed for these; default: all")
    review = add("review", _review, cli_help.REVIEW, config=None)
    review.add_argument("output", metavar="OUT", nargs="?", help="output of ravst annotate, here or in an object store")
    review.add_argument(
        "--predictions", metavar="F.jsonl", action="append", help="show answers instead; twice: compare two runs"
    )
    review.add_argument("--annotations", metavar="F", help=f"their questions: {_QUESTIONS}")
    review.add_argument("overrides", nargs="*", metavar="key=value", help="more settings")
    review.add_argument("--host", help="address to serve at (default 127.0.0.1); another than loopback needs --token")
    review.add_argument("--port", type=int, help="default 8765; 0: any that is free")
    review.add_argument("--token", help="what a browser must know, 16 characters or more; or $RAVST_REVIEW_TOKEN")
    review.add_argument("--reviewer", metavar="NAME", help="who reviews (default: the user's name)")
    review.add_argument("--videos", metavar="DIR", help="folder of the videos (default: that of the run)")
    export = add("export", _export, cli_help.EXPORT, config=None)
    export.add_argument("output", metavar="OUT", help="output directory of a run, here or in an object store")
    export.add_argument("--to", required=True, metavar="DIR", help="empty or new folder, a path or a URI")
    export.add_argument("--format", required=True, metavar="NAME", help="ravst, hf, coco or webdataset")
    export.add_argument(
        "--statuses", nargs="+", default=["accepted"], metavar="S", help="accepted (default), suspect, rejected"
    )
    export.add_argument(
        "--videos", nargs="?", const="", metavar="DIR", help="with the videos; DIR: where they are now, if not there"
    )
    toyworld = add("toyworld", _toyworld, cli_help.TOYWORLD, config=None)
    toyworld.add_argument("--out", required=True, metavar="DIR", help="made if missing")
    toyworld.add_argument("--videos", type=_positive, default=12, metavar="N", help="how many (default 12)")
    toyworld.add_argument("--seed", type=int, default=0, metavar="S", help="same seed, same world (default 0)")
    toyworld.add_argument("--hard", action="store_true", help="scenes as real footage is, not as a demo wants them")
    toyworld.add_argument(
        "--no-cues", dest="cues", action="store_false", help="what sounds doesn't pulse: it must be heard"
    )
    add("make-str", _make_str, cli_help.MAKE_STR, config=False)
    score = add("score", _score, cli_help.SCORE, config=False)
    score.add_argument("--completions", required=True, metavar="F.jsonl")
    score.add_argument("--annotations", required=True, metavar="F", help=_QUESTIONS)
    score.add_argument("--out", required=True, metavar="F.jsonl")
    predict = add("predict", _predict, cli_help.PREDICT, config=False)
    predict.add_argument("--model", metavar="DIR", help="directory or hub name; else engine.model of the configuration")
    predict.add_argument("--benchmark", metavar="NAME", help="vsi-bench, sti-bench or v-star")
    predict.add_argument("--annotations", required=True, metavar="F", help=f"{_QUESTIONS}; or the benchmark's file")
    predict.add_argument("--videos", required=True, metavar="DIR", help="folder with {video name}.mp4")
    predict.add_argument("--out", required=True, metavar="F.jsonl")
    predict.add_argument("--dry-run", action="store_true", help="tell what would be asked; start nothing")
    train = add("train", _train, cli_help.TRAIN, config=True)
    train.add_argument("--resume", action="store_true", help="go on from the last whole checkpoint under output")
    train.add_argument("--dry-run", action="store_true", help="tell what would be done and needed; start nothing")
    model = add("export-model", _export_model, cli_help.EXPORT_MODEL, config=None)
    model.add_argument("output", metavar="RUN", help="output of ravst train, here or in an object store")
    which = model.add_mutually_exclusive_group()
    which.add_argument("--step", type=int, help="of the checkpoint; default: the newest")
    which.add_argument("--best", action="store_true", help="the checkpoint with the best validation")
    model.add_argument("--to", metavar="DIR", help="folder to write, a path or a URI; default: RUN/model-STEP")
    sft = add("train-sft", _train_sft, cli_help.TRAIN_SFT, config=True)
    sft.add_argument("--resume", action="store_true", help="go on from the last whole checkpoint under output")
    sft.add_argument("--dry-run", action="store_true", help="tell what would be done and needed; start nothing")
    evaluate = add("evaluate", _evaluate, cli_help.EVALUATE, config=False)
    evaluate.add_argument("--predictions", required=True, metavar="F.jsonl")
    evaluate.add_argument("--benchmark", metavar="NAME", help="vsi-bench, sti-bench or v-star")
    evaluate.add_argument("--annotations", required=True, metavar="F", help=f"{_QUESTIONS}; or the benchmark's file")
    evaluate.add_argument("--out", required=True, metavar="DIR")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM, which `ray job stop` sends, ends a command as Ctrl-C does: locks are let go, servers stopped."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; settings may stand between and behind options, where argparse takes them for strangers."""
    parser = _parser()
    args, more = parser.parse_known_args(argv)
    if strangers := [one for one in more if one.startswith("-") or "=" not in one or "overrides" not in args]:
        parser.error(f"unrecognized arguments: {' '.join(strangers)}")
    if more:
        args.overrides = [*args.overrides, *more]
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    args = _parsed(argv)
    from ravst_ray.logs import setup_logging
    from ravst_ray.surroundings import prepare_surroundings

    setup_logging()
    try:
        with _sigterm_interrupts():
            prepare_surroundings()  # before libraries are imported, which look up their places then
            args.run(args)
    except ConfigError as error:
        sys.stderr.write(f"ravst {args.command}: {error}\n")
        return EXIT_BAD_CONFIG
    except RavstError as error:
        sys.stderr.write(f"ravst {args.command}: aborted: {error}\n")
        return EXIT_ABORTED
    except (KeyboardInterrupt, SystemExit):  # the latter is what Ray makes of SIGTERM once it is connected
        again = _AGAIN.get(args.command, "the same command begins anew")
        sys.stderr.write(f"ravst {args.command}: interrupted; {again}\n")
        return EXIT_ABORTED
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
