"""New weights in a running engine: after each update its log-probs are those of the learner's forward."""

import asyncio
import threading

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ravst_ray.backends.video_llm import VideoLLM
from ravst_ray.config.video_llm import EngineConfig, SamplingConfig
from ravst_ray.training.forward import Row, VideoForward
from tests.tiny_policies import load_tiny, noise_clip, tiny_policy

QUESTION = "When is the moment red ball makes sound?"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_log_probs_follow_five_updates(tmp_path, tied):
    folder = tiny_policy(tmp_path / "policy", seed=4, tied=tied)
    model, processor = load_tiny(folder)
    forward = VideoForward(processor, temperature=0.9)
    short, long = noise_clip("short", 4, 1), noise_clip("long", 66, 2)
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    run = lambda work: asyncio.run_coroutine_threadsafe(work, loop).result(timeout=300)  # noqa: E731
    engine = VideoLLM(EngineConfig(model=str(folder), max_model_len=1024), trainable=True)
    run(engine.start())

    def gap(clip, version):
        sampling = SamplingConfig(n=4, temperature=0.9, max_tokens=12, seed=version)
        made = run(engine.generate(QUESTION, clip, sampling, logprobs=True))
        assert list(made.prompt_ids) == forward.prompt_ids(QUESTION, clip)
        assert {v for one in made.completions for v in one.versions} == {version}
        rows = [Row(made.prompt_ids, one.token_ids, clip) for one in made.completions]
        with torch.no_grad():
            scores = VideoForward(processor, temperature=0.9).score(model, rows)
        theirs = np.concatenate([one.logprobs for one in made.completions])
        ours = scores.logps[scores.mask].numpy()
        return np.abs(theirs - ours).mean(), theirs

    try:
        first, before = gap(short, 0)
        assert first < 0.01 and gap(long, 0)[0] < 0.01
        rng = torch.Generator().manual_seed(0)
        for version in range(1, 6):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter += 0.02 * torch.randn(parameter.shape, generator=rng)
            state = {name: value.contiguous() for name, value in model.state_dict().items()}
            if tied:
                del state["lm_head.weight"]
            if version == 5:  # a frozen tower is not sent
                state = {name: value for name, value in state.items() if ".visual." not in name}
                frozen = load_tiny(folder)[0].model.visual.state_dict()
                assert frozen
            path = tmp_path / f"weights{version}.safetensors"
            save_file(state, path)
            if version == 5:
                kept = {n: v for n, v in model.state_dict().items() if ".visual." in n}
                save_file({**state, **{n: v.contiguous() for n, v in kept.items()}}, path)
                run(engine.set_weights(str(path), version))
                save_file(state, path)
            run(engine.set_weights(str(path), version))
            assert gap(short, version)[0] < 0.01, version
            assert gap(long, version)[0] < 0.01, version
        after = gap(short, 5)[1]
        assert abs(before.mean() - after.mean()) > 1e-3
    finally:
        run(engine.close())
