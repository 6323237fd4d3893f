"""The engine wrapper: a real vLLM around a small random model of each family, and the learner's forward beside it."""

import asyncio
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from ravst_ray.config.train import LearnerConfig, LoraConfig
from ravst_ray.config.video_llm import EngineConfig, SamplingConfig
from ravst_ray.errors import ConfigError, StepError
from ravst_ray.policy.engine import VideoLLM
from ravst_ray.training.forward import Row, VideoForward
from ravst_ray.training.policy_loading import load_policy
from ravst_ray.training.weights import policy_state, save_policy_model
from tests.families import FAMILY_CASES, FamilyCase, picked

pytestmark = pytest.mark.timeout(600)
QUESTION = "When is the moment red ball makes sound and is visible?"


@dataclass
class Served:
    """A family's model in an engine, and the same weights in transformers."""

    case: FamilyCase
    folder: Path
    engine: VideoLLM
    run: Any
    model: Any
    processor: Any
    version: int = 0

    def generate(self, clip, logprobs=False, text=QUESTION, **sampling):
        settings = SamplingConfig(**{"max_tokens": 12, **sampling})
        return self.run(self.engine.generate(text, clip, settings, logprobs=logprobs))

    def gap(self, clip, score, text=QUESTION, **sampling):
        """Mean distance of the engine's log-probs from those that ``score(rows)`` gives, ``[C]`` for each row."""
        made = self.generate(clip, True, text, n=4, temperature=0.7, seed=self.version, **sampling)
        return self.distance(made, clip, score, text)

    def distance(self, made, clip, score, text=QUESTION):
        """The same, of a generation that is there."""
        forward = VideoForward(self.processor, self.case.family)
        assert list(made.prompt_ids) == forward.prompt_ids(text, clip)
        assert {version for one in made.completions for version in one.versions} == {self.version}
        rows = [Row(made.prompt_ids, one.token_ids, clip) for one in made.completions]
        with torch.no_grad():
            ours = np.concatenate([each.numpy() for each in score(rows)])
        return np.abs(np.concatenate([one.logprobs for one in made.completions]) - ours).mean()

    def plain(self, rows):
        """By transformers' own forward."""
        return [picked(self.case.score(self.model, self.processor, row, 0.7), row) for row in rows]

    def learners(self, model):
        """By the learner's forward."""

        def score(rows):
            scores = VideoForward(self.processor, self.case.family, temperature=0.7).score(model, rows)
            return [logps[mask] for logps, mask in zip(scores.logps, scores.mask, strict=True)]

        return score

    def send(self, model, path, frozen_vision=False):
        self.version += 1
        state = policy_state(model, frozen_vision)
        save_file({name: torch.from_numpy(value) for name, value in state.items()}, path)
        self.run(self.engine.set_weights(str(path), self.version))
        return state


@contextmanager
def serving(case, folder, **how):
    """An engine of a family, which all its tests share; work runs on its event loop."""
    case.save(folder, seed=3)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    run = lambda work: asyncio.run_coroutine_threadsafe(work, loop).result(timeout=400)  # noqa: E731
    engine = VideoLLM(EngineConfig(model=str(folder), max_model_len=2048), trainable=True, **how)
    run(engine.start())
    yield Served(case, folder, engine, run, *case.load(folder))
    run(engine.close())
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


@pytest.fixture(scope="module", params=FAMILY_CASES, ids=lambda case: case.name)
def served(request, tmp_path_factory):
    with serving(request.param, tmp_path_factory.mktemp("policy")) as one:
        yield one


@pytest.mark.parametrize(("frames", "step_s"), [(8, 0.5), (66, 0.7), (7, 0.9), (1, 1.0), (0, 0.0)])
def test_prompt_ids_and_log_probs_are_the_learners_and_transformers_own(served, frames, step_s):
    for clip in served.case.ways(served.case.clip("shown", frames, 1, step_s)) if frames else [None]:
        assert served.gap(clip, served.plain, max_tokens=16) < 1e-4
        assert served.gap(clip, served.learners(served.model), max_tokens=16) < 1e-4


def test_the_model_looks_at_the_frames(served):
    clips = [served.case.clip("shown", 8, seed) for seed in (1, 2)]
    one, other = (served.generate(clip, logprobs=True).completions[0] for clip in clips)
    assert one.logprobs != other.logprobs


def test_neither_pictures_nor_sound_are_taken_for_others(served):
    """vLLM's caches know a pair by one of the two, unless it is told of both."""
    if not served.case.hears:
        pytest.skip("deaf")
    clip, other = served.case.clip("shown", 8, 1), served.case.clip("shown", 8, 2)
    mixed = [
        replace(clip, sound=other.sound),
        replace(other, sound=clip.sound),
        replace(clip, sound=clip.sound[:33333]),
    ]
    for shown in (clip, *mixed, replace(clip, sound=None)):
        assert served.gap(shown, served.plain) < 1e-5
    assert served.gap(clip, lambda rows: served.plain([replace(row, clip=mixed[0]) for row in rows])) > 1e-5


def test_sound_that_is_too_short_harms_no_other(served):
    if not served.case.hears:
        pytest.skip("deaf")
    clip = served.case.clip("shown", 2, step_s=0.001)
    with pytest.raises(StepError) as error:
        served.generate(clip)
    assert error.value.reason == "bad_prompt" and "too short" in error.value.message
    assert served.generate(replace(clip, sound=None)).completions


def test_greedy_answers_repeat_and_samples_differ_by_seed_alone(served):
    clip = served.case.clip("shown", 8)
    greedy = [served.generate(clip).completions[0].token_ids for _ in range(2)]
    assert greedy[0] == greedy[1]
    drawn = [
        tuple(one.token_ids for one in served.generate(clip, n=3, temperature=1.0, seed=seed).completions)
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 3


def test_padding_and_media_are_never_sampled(served):
    tokenizer = served.processor.tokenizer
    banned = served.case.family.banned_ids(tokenizer)
    assert set(tokenizer.convert_ids_to_tokens(banned)) == served.case.never
    generation = served.generate(served.case.clip("shown", 8), n=16, temperature=2.0, max_tokens=64)
    sampled = {token for one in generation.completions for token in one.token_ids}
    assert len(sampled) > 200
    assert not sampled & set(banned)


def test_pictures_that_the_engine_forgot_are_sent_again(served):
    """As when new weights come while a prompt is on its way; vLLM then ends the prompt without a token."""
    clip = served.case.clip("shown", 8, seed=11)
    drawn = [served.generate(clip, n=3, temperature=1.0, seed=1)]
    served.run(served.engine.engine.engine_core.reset_mm_cache_async())
    drawn.append(served.generate(clip, n=3, temperature=1.0, seed=1))
    assert drawn[0] == drawn[1] and all(one.token_ids for one in drawn[1].completions)


def test_a_prompt_that_is_too_long_harms_no_other(served):
    with pytest.raises(StepError) as error:
        served.generate(None, text="red ball " * 2000)
    assert error.value.reason == "prompt_too_long"
    assert served.generate(None).completions[0].truncated


def test_log_probs_follow_five_updates_and_an_adapter(served, tmp_path):
    """New weights in the running engine; a side that were stale, or lacked a weight, would be seen."""
    model = served.model
    short, long = served.case.clip("short", 4, 1), served.case.clip("long", 66, 2)
    first = served.case.load(served.folder)[0]
    rng = torch.Generator().manual_seed(0)
    held = [served.engine.weights]
    for update in range(1, 6):
        frozen = update == 5  # then the towers stay as they are, and aren't sent
        towers = tuple(served.case.family.learner().towers)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if not (frozen and name.startswith(towers)):
                    parameter += 0.02 * torch.randn(parameter.shape, generator=rng)
        served.send(model, tmp_path / f"{update}.safetensors", frozen)
        held.append(served.engine.weights)
        for clip in (short, long):
            assert served.gap(clip, served.plain) < 1e-4, update
            assert served.gap(clip, served.learners(model)) < 1e-4, update
    assert served.gap(short, served.learners(first)) > 0.05
    assert [version for version, _ in held] == list(range(served.version - 5, served.version + 1))
    assert len({checksums for _, checksums in held}) == 6

    adapter = load_policy(str(served.folder), LearnerConfig(lora=LoraConfig(rank=4), dtype="float32")).adapter
    adapted = peft.get_peft_model(model, adapter)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter += 0.1 * torch.randn(parameter.shape, generator=rng)
    try:
        served.send(adapted, tmp_path / "adapter.safetensors", frozen_vision=True)
        assert served.gap(short, served.learners(adapted)) < 1e-4
        with adapted.disable_adapter():
            assert served.gap(short, served.learners(adapted)) > 0.05
    finally:
        adapted.unload()
        served.send(model, tmp_path / "back.safetensors")
    assert served.engine.weights == (served.version, held[-1][1])  # the fifth's weights under another number


def test_a_saved_policy_has_the_weights_and_names_of_the_checkpoint_that_the_engine_loads(served, tmp_path):
    saved = tmp_path / "saved"
    save_policy_model(served.model, served.processor, saved, rank=0)
    assert load_file(saved / "model.safetensors").keys() == load_file(served.folder / "model.safetensors").keys()
    again = served.case.load(saved)[0].state_dict()
    for name, value in served.model.state_dict().items():
        assert torch.equal(again[name], value), name


def test_a_model_that_is_none_is_named():
    with pytest.raises(ConfigError, match=r"engine\.model: no model directory /no/such/model"):
        asyncio.run(VideoLLM(EngineConfig(model="/no/such/model")).start())


def test_a_model_of_another_family_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigError, match=r"is a bert; this runs Qwen2.5-VL \(qwen2_5_vl\), "):
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
