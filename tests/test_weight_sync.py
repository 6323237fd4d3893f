"""New weights in a running engine: after each update its log-probs are those of the learner's forward."""

import asyncio
import threading

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ravst_ray.config.video_llm import EngineConfig, SamplingConfig
from ravst_ray.policy.engine import VideoLLM
from ravst_ray.training.forward import Row, VideoForward
from tests.tiny_policies import FAMILY, load_tiny, noise_clip, tiny_policy

QUESTION = "When is the moment red ball makes sound?"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_log_probs_follow_five_updates(tmp_path, tied):
    folder = tiny_policy(tmp_path / "policy", seed=4, tied=tied)
    model, processor = load_tiny(folder)
    forward = VideoForward(processor, FAMILY, temperature=0.9)
    short, long = noise_clip("short", 4, 1), noise_clip("long", 66, 2)
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    run = lambda work: asyncio.run_coroutine_threadsafe(work, loop).result(timeout=300)  # noqa: E731
    engine = VideoLLM(EngineConfig(model=str(folder), max_model_len=1024), trainable=True)
    run(engine.start())

    def gap(clip, version, against):
        """Mean absolute difference between the engine's log-probs and those of the model ``against``."""
        sampling = SamplingConfig(n=4, temperature=0.9, max_tokens=12, seed=version)
        made = run(engine.generate(QUESTION, clip, sampling, logprobs=True))
        assert list(made.prompt_ids) == forward.prompt_ids(QUESTION, clip)
        assert {v for one in made.completions for v in one.versions} == {version}
        rows = [Row(made.prompt_ids, one.token_ids, clip) for one in made.completions]
        with torch.no_grad():
            scores = VideoForward(processor, FAMILY, temperature=0.9).score(against, rows)
        theirs = np.concatenate([one.logprobs for one in made.completions])
        return np.abs(theirs - scores.logps[scores.mask].numpy()).mean()

    try:
        assert gap(short, 0, model) < 0.01 and gap(long, 0, model) < 0.01
        rng = torch.Generator().manual_seed(0)
        for version in range(1, 6):
            frozen = version == 5  # then the tower stays as it is, and isn't sent
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if not (frozen and ".visual." in name):
                        parameter += 0.02 * torch.randn(parameter.shape, generator=rng)
            state = {name: value.contiguous() for name, value in model.state_dict().items()}
            if tied:
                del state["lm_head.weight"]
            if frozen:
                state = {name: value for name, value in state.items() if ".visual." not in name}
            path = tmp_path / f"weights{version}.safetensors"
            save_file(state, path)
            run(engine.set_weights(str(path), version))
            assert gap(short, version, model) < 0.01, version
            assert gap(long, version, model) < 0.01, version
        first = load_tiny(folder)[0]
        assert gap(short, 5, first) > 0.05, "a stale side would not have been seen"
    finally:
        run(engine.close())
