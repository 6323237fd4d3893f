"""What Qwen3-VL alone has: times before pictures, its positions, experts."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from ravst_ray.config.train import TrainConfig
from ravst_ray.config.video_llm import EngineConfig, FramesConfig, PromptConfig, SamplingConfig
from ravst_ray.errors import ConfigError
from ravst_ray.policy.engine import VideoLLM
from ravst_ray.policy.families import family_of, fit
from ravst_ray.policy.families.protocols import Shape
from ravst_ray.policy.families.qwen3_vl import Qwen3VL
from ravst_ray.toyworld.training.policy import build_tokenizer
from ravst_ray.toyworld.training.policy_qwen3 import qwen3_processor, save_qwen3
from ravst_ray.training.forward import Row
from ravst_ray.training.plan import fitted
from tests.families import FAMILY_CASES, picked

FAMILY = Qwen3VL()
CASE = next(case for case in FAMILY_CASES if case.family.name == FAMILY.name)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_a_picture_of_two_frames_stands_behind_its_time(tokenizer):
    # Frames at 0, 1.5, 3 s: means 0.75 (to the even digit: 0.8) and 3 (the last twice); 64 x 32 pixels are two tokens.
    ids = FAMILY.prompt_ids(tokenizer, "When?", Shape(3, 32, 64, 1.5))
    picture = "<|vision_start|><|video_pad|><|video_pad|><|vision_end|>"
    assert tokenizer.decode(ids) == (
        f"<|im_start|>user\n<0.8 seconds>{picture}<3.0 seconds>{picture}When?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(("frames", "step_s"), [(2, 0.5), (7, 0.7), (9, 1 / 3)])
def test_prompt_ids_are_those_of_transformers_processor(tokenizer, frames, step_s):
    clip = CASE.clip(frames=frames, step_s=step_s)
    metadata = FAMILY.metadata(frames, step_s)
    del metadata["do_sample_frames"]
    made = qwen3_processor(tokenizer)(
        text=[FAMILY.request(tokenizer, "When <?", clip)["prompt"]],
        videos=[clip.frames],
        video_metadata=[metadata],
        do_sample_frames=False,
        **FAMILY.processor_kwargs,
    )
    assert FAMILY.prompt_ids(tokenizer, "When <?", Shape.of(clip)) == made["input_ids"][0]


def test_times_are_vllms_own_to_the_last_bit():
    from vllm.model_executor.models.qwen3_vl import Qwen3VLProcessingInfo

    for step_s in [*(tenths / 10 for tenths in range(1, 51)), 0.25, 1 / 3, 3 * 0.7]:
        for frames in (1, 2, 7, 64):
            given = FAMILY.metadata(frames, step_s)
            theirs = Qwen3VLProcessingInfo._calculate_timestamps(None, given["frames_indices"], given["fps"], 2)
            assert FAMILY.times_s(frames, step_s) == theirs
            assert theirs[-1] == pytest.approx((frames - 1 if frames % 2 else frames - 1.5) * step_s)


@pytest.mark.parametrize("shape", [Shape(8, 64, 96, 0.5), Shape(33, 32, 32, 1.4), Shape(1, 160, 64, 1.0)])
def test_positions_are_vllms_own(tokenizer, shape):
    from vllm.model_executor.models.qwen3_vl import Qwen3VLForConditionalGeneration

    ids = FAMILY.prompt_ids(tokenizer, "When is it?", shape)
    vocabulary = tokenizer.get_vocab()
    config = SimpleNamespace(
        video_token_id=vocabulary["<|video_pad|>"],
        vision_start_token_id=vocabulary["<|vision_start|>"],
        vision_end_token_id=vocabulary["<|vision_end|>"],
        vision_config=SimpleNamespace(spatial_merge_size=2),
    )
    grid = torch.tensor([-(-shape.frames // 2), shape.height // 16, shape.width // 16])
    video = SimpleNamespace(
        modality="video",
        mm_position=SimpleNamespace(offset=0),
        data={"video_grid_thw": SimpleNamespace(data=grid)},
    )
    theirs, delta = Qwen3VLForConditionalGeneration._get_mrope_input_positions(ids, [video], config)
    ours = FAMILY.positions(ids, shape, config)
    assert ours.tolist() == theirs.tolist()
    assert ours.max() + 1 == len(ids) + delta


def test_placeholders_that_do_not_fit_are_refused(tokenizer):
    config = SimpleNamespace(video_token_id=tokenizer.get_vocab()["<|video_pad|>"])
    ids = FAMILY.prompt_ids(tokenizer, "When?", Shape(4, 64, 96, 0.5))
    for other in (Shape(6, 64, 96, 0.5), Shape(2, 64, 96, 0.5), Shape(6, 64, 64, 0.5)):
        with pytest.raises(ValueError, match="12 placeholders of video"):
            FAMILY.positions(ids, other, config)


def test_boxes_are_asked_for_in_thousandths_and_frames_are_multiples_of_32():
    frames, prompt = fit(FramesConfig(step_s=30.0), PromptConfig(), FAMILY)
    assert (frames.multiple, frames.sound, prompt.box_space) == (32, "none", "thousand")
    assert fit(FramesConfig(), PromptConfig(box_space="frame"), FAMILY)[1].box_space == "frame"


def test_a_model_with_experts_is_not_trained(tmp_path):
    folder = save_qwen3(tmp_path / "experts", hidden=64, layers=3, experts=2, tied=False)
    config = TrainConfig(model=str(folder), output="o", data={"annotations": "a", "videos": "v"})
    with pytest.raises(ConfigError, match=r"a Qwen3-VL with experts \(qwen3_vl_moe\) can be asked but not trained"):
        fitted(config)


@pytest.mark.slow
def test_a_model_with_experts_answers_as_in_transformers(tmp_path):
    """Weights are large enough that other experts would be seen."""
    folder = save_qwen3(tmp_path / "experts", seed=3, hidden=64, layers=3, experts=4, tied=False, spread=0.1)
    clip = CASE.clip(frames=7)

    async def ask():
        engine = VideoLLM(EngineConfig(model=str(folder), max_model_len=1024))
        await engine.start()
        try:
            sampling = SamplingConfig(n=4, temperature=1.0, max_tokens=12)
            return await engine.generate("When is it?", clip, sampling, logprobs=True)
        finally:
            await engine.close()

    made = asyncio.run(ask())
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    assert list(made.prompt_ids) == family_of(str(folder)).prompt_ids(
        processor.tokenizer, "When is it?", Shape.of(clip)
    )

    @torch.no_grad()
    def gap():
        rows = [Row(made.prompt_ids, one.token_ids, clip) for one in made.completions]
        ours = np.concatenate([picked(CASE.score(model, processor, row), row).numpy() for row in rows])
        return np.abs(np.concatenate([one.logprobs for one in made.completions]) - ours).mean()

    assert gap() < 1e-4
    with torch.no_grad():
        for name, value in model.named_parameters():
            if ".experts." in name:
                value.copy_(value.flip(0))
    assert gap() > 0.05
