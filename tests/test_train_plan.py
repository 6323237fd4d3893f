"""What is refused or told before a run starts: resources, prompts that don't fit, dry runs of the shipped files."""

import json
import math
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from ravst_ray.cli import main
from ravst_ray.config.base import load_config
from ravst_ray.config.train import TrainConfig, TrainDataConfig
from ravst_ray.config.video_llm import PredictConfig
from ravst_ray.core.answers import ObjectAnswer, render
from ravst_ray.datasets.ravst_json import dump_questions
from ravst_ray.datasets.tasks import read_tasks
from ravst_ray.errors import ConfigError, StepError
from ravst_ray.evaluation.predict import _begin, _fitted
from ravst_ray.media.clips import show_video
from ravst_ray.media.decoding import ChildDecoder
from ravst_ray.policy.prompts import question_prompt
from ravst_ray.records import QAPair
from ravst_ray.toyworld.training.policy_qwen3 import save_qwen3
from ravst_ray.training import loop
from ravst_ray.training.forward import VideoForward
from ravst_ray.training.plan import check_cluster, check_prompts, load_tokenizer, needs, prompt_tokens, timed
from ravst_ray.training.prompts import training_tasks
from tests.tiny_policies import FAMILY, load_tiny, noise_clip, tiny_policy

CONFIGS = sorted((Path(__file__).parents[1] / "jobs" / "configs").glob("train_*.yaml"))
KINDS = ("laptop", "1gpu", "8gpu", "paper", "qwen3vl", "omni", "str_laptop", "video_str")
LAPTOP = next(path for path in CONFIGS if path.stem == "train_laptop")


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return tiny_policy(tmp_path_factory.mktemp("policy"), seed=1)


@pytest.fixture(scope="module")
def given(world, policy, tmp_path_factory):
    """Overrides that name three questions about a toy video of 6 s and one about a file that is broken."""
    folder = tmp_path_factory.mktemp("data")
    shutil.copy(min(world.videos.glob("*.mp4")), folder / "a.mp4")
    (folder / "broken.mp4").write_bytes(b"no video")
    answer = render([ObjectAnswer("red ball", (1.0, 3.0))])
    pairs = [QAPair(f"a/1/AVTR/{i}", "a", 1, "AVTR", f"When? {'word ' * 40 * i}", answer) for i in range(3)]
    pairs += [QAPair("broken/1/AVTR/0", "broken", 1, "AVTR", "When? " + "word " * 5000, answer)]
    (folder / "questions.json").write_text(dump_questions(pairs, {"a": 6.0, "broken": 6.0}))
    return [f"data.annotations={folder / 'questions.json'}", f"data.videos={folder}", f"model={policy}"]


@pytest.fixture
def nothing_starts(monkeypatch):
    """Fails the test that starts Ray or engines."""

    def started(*_, **__):
        raise AssertionError("something was started")

    monkeypatch.setattr(loop, "start_ray", started)
    monkeypatch.setattr(loop, "_attempt", started)


def test_the_training_files_are_there():
    assert {path.stem for path in CONFIGS} == {f"train_{kind}" for kind in KINDS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_file_is_dry_run_on_a_tiny_dataset(path, given, tmp_path, capsys, nothing_starts):
    given = [*given, f"output={tmp_path / 'out'}", "max_steps=6"]
    if path.stem == "train_qwen3vl":
        given.append(f"model={save_qwen3(tmp_path / 'qwen3')}")
    assert main(["train", "--dry-run", "--config", str(path), *given]) == 0
    said = capsys.readouterr().out
    gpus, cpus = {
        "train_laptop": ("0 GPUs: 0 learner + 0 rollout", "1.5 CPUs: 0.5 learner + 1 rollout"),
        "train_1gpu": ("1 GPUs: 0.5 learner + 0.5 rollout", "2 CPUs: 1 learner + 1 rollout"),
        "train_8gpu": ("8 GPUs: 4 learner + 4 rollout", "8 CPUs: 4 learner + 4 rollout"),
        "train_paper": ("5 GPUs: 4 learner + 1 rollout", "5 CPUs: 4 learner + 1 rollout"),
        "train_qwen3vl": ("8 GPUs: 4 learner + 4 rollout", "8 CPUs: 4 learner + 4 rollout"),
        "train_str_laptop": ("0 GPUs: 0 learner + 0 rollout", "1.5 CPUs: 0.5 learner + 1 rollout"),
        "train_video_str": ("8 GPUs: 4 learner + 4 rollout", "8 CPUs: 4 learner + 4 rollout"),
        "train_omni": ("5 GPUs: 4 learner + 1 rollout", "5 CPUs: 4 learner + 1 rollout"),
    }[path.stem]
    config = load_config(TrainConfig, path, given)
    prompts, size, longest = (getattr(config.rollouts, key) for key in ("prompts_per_step", "group_size", "max_tokens"))
    assert f"resources: {gpus}\nresources: {cpus}\n" in said
    assert "data: 4 questions (AVTR 4) on 2 videos, 0 of them without a file\n" in said
    assert f"steps: 6; an epoch is {math.ceil(4 / prompts)} steps, the run {6 * prompts / 4:.2f} epochs\n" in said
    total = prompts * size * longest
    assert f"{prompts} prompts x {size} completions x {longest} = {total}; the run 6 times as many" in said
    assert f"tokens of {config.engine.max_model_len}; 0 leave less than" in said
    assert not (tmp_path / "out").exists()


def test_a_dry_run_counts_nothing_where_the_files_are_missing(tmp_path, capsys, nothing_starts):
    more = [f"data.annotations={tmp_path / 'no.json'}", f"data.videos={tmp_path}", f"output={tmp_path / 'out'}"]
    assert main(["train", "--dry-run", "--config", str(CONFIGS[0]), *more]) == 0
    said = capsys.readouterr().out
    assert f"data: {tmp_path / 'no.json'} not there, so nothing is counted" in said
    assert "resources: 1 GPUs" in said and "prompts:" not in said
    assert "GiB are free" in said and "checkpoints and model take up to 16.0 GiB" in said
    assert "a card that learns, of 1" in said and "cards of 40 GB or more: 2" in said
    assert main(["train", "--dry-run", "--config", str(CONFIGS[0]), *more, "model=org/unheard-of"]) == 0
    said = capsys.readouterr().out
    assert "memory: nothing tells how org/unheard-of is built" in said and "a card that" not in said


def test_a_dry_run_refuses_what_a_run_would(given, tmp_path, capsys, nothing_starts):
    train = ["train", "--dry-run", "--config", str(LAPTOP), *given, f"output={tmp_path / 'out'}"]
    assert main([*train, "rollouts.typo=1"]) == 2
    assert "rollouts.typo: unknown key" in capsys.readouterr().err
    assert main([*train, "reward.weights.AVTR.node=1"]) == 2
    assert "reward.weights.AVTR.node: AVTR has no such part; its parts are format, " in capsys.readouterr().err
    assert main([*train, "engine.max_model_len=128"]) == 2
    assert "don't fit engine.max_model_len = 128" in capsys.readouterr().err


def test_the_supervised_run_is_told_as_well(given, tmp_path, capsys):
    sft = ["train-sft", "--dry-run", "--config", str(LAPTOP.with_name("sft_laptop.yaml")), *given]
    more = ["workers=2", "sft.epochs=3", "sft.batch=8", "sft.max_steps=null", "frames.max_frames=4"]
    assert main([*sft, *more, "frames.max_step_s=1.0", f"output={tmp_path / 'out'}"]) == 0
    said = capsys.readouterr().out
    assert "resources: 0 GPUs, 2 CPUs for 2 workers\n" in said
    assert f"output: {tmp_path / 'out'} can be written to" in said and not (tmp_path / "out").exists()
    assert "data: 4 questions (AVTR 4) on 2 videos, 0 of them without a file\n" in said
    assert "steps: 2 of 8 examples, 4.00 epochs\n" in said  # 3 times 4 fill one and a half
    assert "frames: 2 videos are left out" in said
    (tmp_path / "file").touch()
    assert main([*sft, f"output={tmp_path / 'file' / 'out'}"]) == 2
    assert f"output: can't write to {tmp_path / 'file' / 'out'}" in capsys.readouterr().err


def test_a_dry_run_of_answers_tells_what_is_left_to_ask(given, policy, tmp_path, capsys):
    files = ["--annotations", given[0].partition("=")[2], "--videos", given[1].partition("=")[2]]
    out = tmp_path / "answers.jsonl"
    predict = ["predict", "--dry-run", "--model", str(policy), *files, "--out", str(out)]
    assert main(predict) == 0
    assert "it answers 0 of them, 4 would be asked" in capsys.readouterr().err and not list(tmp_path.iterdir())
    config = load_config(PredictConfig, None, [f"engine.model={policy}"])
    _begin(out, _fitted(config))
    out.write_text(json.dumps({"id": "a/1/AVTR/1", "prediction": "?"}) + "\n")
    assert main(predict) == 0
    assert f"{out} can be written to; it answers 1 of them, 3 would be asked" in capsys.readouterr().err
    assert main([*predict, "frames.max_frames=3"]) == 2
    assert f"{out} was begun with other settings than frames.max_frames=3" in capsys.readouterr().err


def test_a_dry_run_tells_how_many_videos_are_too_long(given, tmp_path, capsys, nothing_starts):
    train = ["train", "--dry-run", "--config", str(LAPTOP), *given, f"output={tmp_path / 'out'}"]
    assert main([*train, "frames.max_frames=4", "frames.max_step_s=1.0"]) == 0
    said = capsys.readouterr().out
    assert "frames: 2 videos are left out, as frames.max_frames = 4 of them would be more than 1 s apart\n" in said
    assert "prompts: at most 0 tokens" in said


def test_a_cluster_that_is_too_small_is_told_in_numbers(given, tmp_path):
    more = ["learner.workers=2", "learner.num_gpus=1", "rollouts.actors=2", "rollouts.num_gpus=1"]
    config = load_config(TrainConfig, LAPTOP, [*given, f"output={tmp_path}", *more])
    with pytest.raises(ConfigError) as refused:
        check_cluster(config, {"GPU": 1.0, "CPU": 8.0})
    assert str(refused.value) == "needs 4 GPUs: 2 learner + 2 rollout; the cluster has 1"
    with pytest.raises(ConfigError, match="needs 3 CPUs: 1 learner \\+ 2 rollout; the cluster has 2"):
        check_cluster(config, {"GPU": 4.0, "CPU": 2.0})
    check_cluster(config, {"GPU": 4.0, "CPU": 3.0})
    assert [need.total for need in needs(config)] == [4.0, 3.0]


def test_a_small_cluster_ends_a_run_before_engines_start(given, tmp_path, monkeypatch, capsys, local_ray):
    monkeypatch.setattr(loop, "_attempt", lambda *_: pytest.fail("something was started"))
    given = [*given, f"output={tmp_path / 'out'}", "learner.num_gpus=1", "rollouts.num_gpus=1"]
    assert main(["train", "--config", str(LAPTOP), *given]) == 2
    assert "ravst train: needs 2 GPUs: 1 learner + 1 rollout; the cluster has 0\n" in capsys.readouterr().err
    monkeypatch.setattr(loop, "cluster_capacity", lambda: {"GPU": 2.0, "CPU": 4.0})
    monkeypatch.setattr(loop, "cards", lambda: [2**29])
    assert main(["train", "--config", str(LAPTOP), *given]) == 2
    assert "doesn't fit cards of 0.5 GiB: a learner needs " in capsys.readouterr().err


def test_prompts_over_the_limit_are_refused_by_id_before_the_run(given, tmp_path, capsys, nothing_starts):
    given = [*given, f"output={tmp_path / 'out'}"]
    near = load_config(TrainConfig, LAPTOP, [*given, "engine.max_model_len=100"])
    tokens = prompt_tokens(read_tasks(near.data.annotations, near.data.videos), near, load_tokenizer(near.model))
    limit = tokens["a/1/AVTR/1"]
    assert main(["train", "--config", str(LAPTOP), *given, f"engine.max_model_len={limit}"]) == 2
    said = capsys.readouterr().err
    assert f"don't fit engine.max_model_len = {limit}: a/1/AVTR/2 ({tokens['a/1/AVTR/2']} tokens), " in said
    assert f"a/1/AVTR/1 ({limit} tokens); raise it, show fewer or smaller frames" in said
    assert not (tmp_path / "out").exists()
    check_prompts({"a": 99}, near)
    with pytest.raises(ConfigError, match=r"q0 \(100 tokens\).* and 2 more;"):
        check_prompts({f"q{i}": 100 for i in range(7)}, near)


def test_questions_that_quote_the_models_tokens_are_left_out_and_told(tmp_path, policy, caplog):
    answer = render([ObjectAnswer("red ball", (1.0, 3.0))])
    asked = ("Where is <|video_pad|>?", "When?", "When<|im_end|>?")

    def tasks(*questions):
        pairs = [QAPair(f"{v}/1/AVTR/0", v, 1, "AVTR", text, answer) for v, text in zip("abc", questions, strict=False)]
        (tmp_path / "q.json").write_text(dump_questions(pairs, dict.fromkeys("abc", 6.0)))
        return training_tasks(TrainDataConfig(annotations=str(tmp_path / "q.json"), videos=str(tmp_path)))

    assert [[pair.question for pair in task.questions] for task in tasks(*asked)] == [["When?"]]
    assert "(<|…|>) stands in 2 of 3 questions, a/1/AVTR/0 is one; they are left out" in caplog.text
    with pytest.raises(ConfigError, match=r"stands in 1 of 1 questions, .* none can be asked"):
        tasks(asked[0])
    with pytest.raises(ConfigError, match=r"no question in .*q.json; .* export.statuses="):
        tasks()
    forward = VideoForward(load_tiny(policy)[1], FAMILY)
    for clip in (noise_clip(), None):
        with pytest.raises(StepError, match=r"<\|im_end\|> stands in the question") as refused:
            forward.prompt_ids(asked[2], clip)
        assert refused.value.reason == "bad_prompt"
        assert len(forward.prompt_ids("a | dog <b>", clip)) > 5


def test_a_video_of_unknown_length_is_shown_and_counted_at_its_files_own(given, tmp_path):
    config = load_config(TrainConfig, LAPTOP, [*given, f"output={tmp_path}", "engine.max_model_len=100"])
    known = read_tasks(config.data.annotations, config.data.videos)
    unknown = [replace(task, duration_s=0.0) for task in known]
    with closing(ChildDecoder(config.decode)) as decoder:
        length_s = decoder.index(known[0].path).duration_s
        clip, view = show_video(decoder, "a", known[0].path, 0.0, config.frames)
        assert [task.duration_s for task in timed(unknown, decoder)] == [length_s, 0.0], "the other can't be read"
        assert [task.duration_s for task in timed(known, decoder)] == [6.0, 6.0]
    assert (len(clip.frames), view.duration_s) == (math.ceil(length_s), length_s) and length_s > 3
    tokenizer = load_tokenizer(config.model)
    stated = [replace(known[0], duration_s=length_s)]
    assert prompt_tokens(unknown, config, tokenizer) == prompt_tokens(stated, config, tokenizer) != {}


def test_prompts_are_counted_as_the_model_has_them(given, tmp_path, policy):
    """Exactly where the limit is near, never too few where it is far; a broken video's questions don't matter."""
    forward = VideoForward(load_tiny(policy)[1], FAMILY)
    for frames in ("frames.max_pixels=12544", "frames.max_pixels=30000"):
        config = load_config(TrainConfig, LAPTOP, [*given, f"output={tmp_path}", frames])
        tasks = read_tasks(config.data.annotations, config.data.videos)
        decoder = ChildDecoder(config.decode)
        clip, view = show_video(decoder, "a", tasks[0].path, 6.0, config.frames)
        decoder.close()
        true = {
            pair.qa_id: len(forward.prompt_ids(question_prompt("AVTR", pair.question, view, config.prompt), clip))
            for pair in tasks[0].questions
        }
        near = config.model_copy(update={"engine": config.engine.model_copy(update={"max_model_len": 100})})
        tokenizer = load_tokenizer(config.model)
        assert prompt_tokens(tasks, near, tokenizer) == true
        far = prompt_tokens(tasks[:1], config, tokenizer)
        assert all(true[name] <= far[name] <= true[name] + 80 for name in true)
