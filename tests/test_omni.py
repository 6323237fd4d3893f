"""Qwen2.5-Omni's own: tokens and positions of sound among pictures, as vLLM's functions make them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ravst_ray.errors import StepError
from ravst_ray.policy.families.chat import chat_text
from ravst_ray.policy.families.protocols import Shape
from ravst_ray.policy.families.qwen2_5_omni import Qwen25Omni, seconds_per_grid, sound_tokens
from ravst_ray.toyworld.training.policy_omni import build_omni_processor, build_omni_tokenizer, thinker_config

FAMILY = Qwen25Omni()
QUESTION = "When is the moment red ball makes sound and is visible?"


@pytest.fixture(scope="module")
def tokenizer():
    return build_omni_tokenizer()


@pytest.fixture(scope="module")
def config(tokenizer):
    return thinker_config(tokenizer)


def vllms_ids(tokenizer, config, shape):
    """vLLM's expansion of a video with sound, in the chat."""
    from vllm.model_executor.models.qwen2_5_omni_thinker import Qwen2_5OmniThinkerMultiModalProcessor as Theirs

    grid = torch.tensor([-(-shape.frames // 2), shape.height // 14, shape.width // 14])
    block = Theirs.omni_get_updates_use_audio_in_video(
        config, sound_tokens(shape.samples), grid, seconds_per_grid(shape.step_s)
    )
    ids = tokenizer(chat_text(tokenizer, QUESTION, "<|VIDEO|>"))["input_ids"]
    place = ids.index(config.video_token_id)
    return [*ids[:place], *block, *ids[place + 1 :]], place


def vllms_positions(config, ids, place, shape):
    from vllm.model_executor.models.qwen2_5_omni_thinker import Qwen2_5OmniThinkerForConditionalGeneration as Theirs

    def feature(modality, **data):
        wrapped = {key: SimpleNamespace(data=torch.tensor(value)) for key, value in data.items()}
        return SimpleNamespace(modality=modality, mm_position=SimpleNamespace(offset=place), data=wrapped)

    grid = [-(-shape.frames // 2), shape.height // 14, shape.width // 14]
    heard = shape.samples is not None
    # What is left of fps after transformers' processor and vLLM's cast to the precision of its model.
    seconds = float(torch.tensor(2 / (2 / seconds_per_grid(shape.step_s))).to(torch.bfloat16))
    features = [feature("video", video_grid_thw=grid, second_per_grid_ts=seconds, use_audio_in_video=heard)]
    if heard:
        features.append(feature("audio", audio_feature_lengths=-(-shape.samples // 160)))
    bare = Theirs.__new__(Theirs)
    torch.nn.Module.__init__(bare)
    bare.config = config
    return bare.get_mrope_input_positions(ids, features)


def random_shapes(count, seed):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        frames, step_s = int(rng.integers(1, 80)), round(float(rng.uniform(0.05, 1.0)), int(rng.integers(1, 4)))
        # Mostly as long as the pictures, now and then any length that a caller might come up with.
        samples = round(frames * step_s * 16000) if rng.random() < 0.7 else int(rng.integers(481, 16000 * 60))
        yield Shape(frames, 28 * int(rng.integers(1, 4)), 28 * int(rng.integers(1, 4)), step_s, max(samples, 481))


def test_tokens_and_positions_of_sound_in_video_are_vllms(tokenizer, config):
    for shape in random_shapes(400, seed=1):
        ids, place = vllms_ids(tokenizer, config, shape)
        assert FAMILY.prompt_ids(tokenizer, QUESTION, shape) == ids, shape
        theirs, delta = vllms_positions(config, ids, place, shape)
        ours = FAMILY.positions(ids, shape, config)
        assert ours.tolist() == theirs.tolist(), shape
        assert ours.max() + 1 == len(ids) + delta


def test_positions_of_silent_video_are_vllms(tokenizer, config):
    for seen in random_shapes(100, seed=2):
        shape = Shape(seen.frames, seen.height, seen.width, 4 * seen.step_s)
        ids = FAMILY.prompt_ids(tokenizer, QUESTION, shape)
        theirs, _ = vllms_positions(config, ids, ids.index(config.video_token_id), shape)
        assert FAMILY.positions(ids, shape, config).tolist() == theirs.tolist(), shape
    ids = FAMILY.prompt_ids(tokenizer, QUESTION, None)
    assert FAMILY.positions(ids, None, config).tolist() == [list(range(len(ids)))] * 3


def test_two_seconds_of_pictures_stand_before_their_two_seconds_of_sound(tokenizer):
    ids = FAMILY.prompt_ids(tokenizer, "When?", Shape(5, 28, 56, 1.0, 5 * 16000))
    start, end = (tokenizer.convert_tokens_to_ids(f"<|vision_{side}|>") for side in ("bos", "eos"))
    block = tokenizer.convert_ids_to_tokens(ids[ids.index(start) : ids.index(end) + 1])
    pictures = ["<|VIDEO|>"] * 2
    inside = [*pictures, *["<|AUDIO|>"] * 50, *pictures, *["<|AUDIO|>"] * 50, *pictures, *["<|AUDIO|>"] * 25]
    assert block == ["<|vision_bos|>", "<|audio_bos|>", *inside, "<|audio_eos|>", "<|vision_eos|>"]


def test_sound_has_as_many_tokens_as_its_spectrogram_gives(tokenizer):
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration
    from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniAudioEncoder as Tower

    from ravst_ray.media.clips import Clip

    assert Qwen2_5OmniThinkerForConditionalGeneration  # the tower's module is whole
    processor = build_omni_processor(tokenizer)
    learner = FAMILY.learner()
    for samples in (481, 16000, 16001, 33333, 29 * 16000 + 7, 31 * 16000 + 7):
        sound = np.random.default_rng(samples).normal(0, 0.1, samples).astype(np.float32)
        mel = learner.encode(processor, Clip("a", np.zeros((2, 28, 28, 3), np.uint8), 0.5, sound))["mel"]
        _, tokens = Tower._get_feat_extract_output_lengths(None, torch.tensor(mel.shape[1]))
        assert (mel.shape[0], int(tokens)) == (128, sound_tokens(samples)), samples


def test_pictures_too_far_apart_for_sound_are_refused(tokenizer):
    FAMILY.prompt_ids(tokenizer, "When?", Shape(5, 28, 56, 4.0))
    with pytest.raises(StepError) as caught:
        FAMILY.prompt_ids(tokenizer, "When?", Shape(5, 28, 56, 1.5, 16000))
    assert caught.value.reason == "step_too_long"
