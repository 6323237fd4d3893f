"""The engine wrapper, with a real vLLM around a randomly initialised Qwen2.5-VL."""

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from ravst_ray.config.video_llm import EngineConfig, SamplingConfig
from ravst_ray.errors import ConfigError, StepError
from ravst_ray.media.clips import Clip
from ravst_ray.policy.engine import VideoLLM
from ravst_ray.policy.families.chat import chat_text, vl_positions
from ravst_ray.toyworld.training.policy import save_policy
from tests.tiny_policies import FAMILY

pytestmark = pytest.mark.timeout(600)
QUESTION = "When is the moment red ball makes sound and is visible?"


def clip(frames: int = 8, seed: int = 0, step_s: float = 0.5) -> Clip:
    pixels = np.random.default_rng(seed).integers(0, 256, (frames, 56, 84, 3), dtype=np.uint8)
    return Clip(f"noise{seed}", pixels, step_s)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_policy(tmp_path_factory.mktemp("policy"), seed=3, hidden=64, layers=2, vision=64)


@pytest.fixture(scope="module")
def ask(folder):
    """Runs work on the engine's event loop: ``ask(lambda engine: engine.generate(…))``."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    run = lambda work: asyncio.run_coroutine_threadsafe(work, loop).result(timeout=400)  # noqa: E731
    engine = VideoLLM(EngineConfig(model=str(folder), max_model_len=1024))
    run(engine.start())
    yield lambda make: run(make(engine))
    run(engine.close())
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


def generate(ask, shown, logprobs=False, **sampling):
    settings = SamplingConfig(**{"max_tokens": 12, **sampling})
    return ask(lambda engine: engine.generate(QUESTION, shown, settings, logprobs=logprobs))


def plain_logprobs(folder, prompt_ids, shown, completion_ids, temperature):
    """Log-probs by a full forward of transformers' model, with vLLM's positions and bans."""
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    ids = [*prompt_ids, *completion_ids]
    metadata = {k: v for k, v in FAMILY.metadata(len(shown.frames), shown.step_s).items() if k != "do_sample_frames"}
    inputs = processor(
        text=[chat_text(processor.tokenizer, QUESTION, "<|video_pad|>")],
        videos=[shown.frames],
        video_metadata=[metadata],
        do_sample_frames=False,
        return_tensors="pt",
        **FAMILY.processor_kwargs,
    )
    assert inputs["input_ids"][0].tolist() == list(prompt_ids)
    grid = inputs["video_grid_thw"][0].tolist()
    tokens = model.config.vision_config.tokens_per_second
    positions = vl_positions(ids, model.config.video_token_id, grid, FAMILY.seconds_per_grid(shown.step_s), tokens)
    with torch.no_grad():
        logits = model(
            input_ids=torch.tensor([ids]),
            position_ids=torch.from_numpy(positions)[:, None],
            pixel_values_videos=inputs["pixel_values_videos"],
            video_grid_thw=inputs["video_grid_thw"],
        ).logits[0]
    logits[:, FAMILY.banned_ids(processor.tokenizer)] -= 100
    table = torch.log_softmax(logits / temperature, dim=-1)
    start = len(prompt_ids)
    return [float(table[start + place - 1, token]) for place, token in enumerate(completion_ids)]


@pytest.mark.parametrize(("frames", "step_s"), [(8, 0.5), (66, 0.7)])
def test_log_probs_and_prompt_ids_are_those_of_transformers(ask, folder, frames, step_s):
    shown = clip(frames, step_s=step_s)
    generation = generate(ask, shown, logprobs=True, n=2, temperature=0.7, max_tokens=16)
    for one in generation.completions:
        truth = plain_logprobs(folder, generation.prompt_ids, shown, one.token_ids, 0.7)
        assert np.abs(np.array(one.logprobs) - truth).mean() < 0.01
        assert len(one.token_ids) == 16 and one.truncated


def test_the_model_looks_at_the_frames(ask):
    one, other = (generate(ask, clip(8, seed), logprobs=True, n=1).completions[0] for seed in (1, 2))
    assert one.logprobs != other.logprobs


def test_greedy_answers_repeat_and_samples_differ_by_seed_alone(ask):
    greedy = [generate(ask, clip()).completions[0].token_ids for _ in range(2)]
    assert greedy[0] == greedy[1]
    drawn = [
        tuple(one.token_ids for one in generate(ask, clip(), n=3, temperature=1.0, seed=seed).completions)
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 3


def test_padding_and_pictures_are_never_sampled(ask, folder):
    from transformers import AutoTokenizer

    banned = set(FAMILY.banned_ids(AutoTokenizer.from_pretrained(folder)))
    assert len(banned) == 6
    generation = generate(ask, clip(), n=16, temperature=2.0, max_tokens=64)
    sampled = {token for one in generation.completions for token in one.token_ids}
    assert len(sampled) > 200
    assert not sampled & banned


def test_a_prompt_that_is_too_long_harms_no_other(ask):
    with pytest.raises(StepError) as error:
        ask(lambda engine: engine.generate("red ball " * 2000, None, SamplingConfig(max_tokens=4)))
    assert error.value.reason == "prompt_too_long"
    assert generate(ask, None).completions[0].truncated


def test_a_model_that_is_none_is_named():
    with pytest.raises(ConfigError, match=r"engine\.model: no model directory /no/such/model"):
        asyncio.run(VideoLLM(EngineConfig(model="/no/such/model")).start())


def test_a_model_of_another_family_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigError, match=r"is a bert; this runs Qwen2\.5-VL \(qwen2_5_vl\)"):
        asyncio.run(VideoLLM(EngineConfig(model=str(tmp_path))).start())


ENGINE_PROCESS = """
import multiprocessing
from ravst_ray.policy.engine import _set_environment
from ravst_ray.config.video_llm import EngineConfig

if __name__ == "__main__":
    _set_environment(EngineConfig(model="m"), None)
    child = multiprocessing.get_context("spawn").Process(target=print, args=("started",))
    child.start()
    child.join()
"""


def test_modules_in_the_working_directory_are_not_for_the_engine(tmp_path):
    """Its processes start as vLLM starts them, by ``spawn``, from one that Ray has started with a script elsewhere."""
    for name in ("types", "signal", "multiprocessing"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the one in the working directory')\n")
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "worker.py").write_text(ENGINE_PROCESS)
    done = subprocess.run(
        [sys.executable, "scripts/worker.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "started\n", done.stderr
