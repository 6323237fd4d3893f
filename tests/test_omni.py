"""Qwen2.5-Omni's own: tokens and positions of sound among pictures, as vLLM's functions make them; its training."""

import copy
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniAudioEncoder

from ravst_ray.config.sft import SftConfig
from ravst_ray.config.train import LoraConfig
from ravst_ray.config.video_llm import FramesConfig, PromptConfig
from ravst_ray.errors import ConfigError, StepError
from ravst_ray.media.clips import Clip
from ravst_ray.policy.families import fit
from ravst_ray.policy.families.chat import chat_text
from ravst_ray.policy.families.protocols import Shape
from ravst_ray.policy.families.qwen2_5_omni import Qwen25Omni, seconds_per_grid, sound_tokens, whole
from ravst_ray.toyworld.training.policy_omni import build_omni_processor, build_omni_tokenizer, thinker_config
from ravst_ray.training.forward import VideoForward
from ravst_ray.training.sft import build_sft, example
from ravst_ray.training.weights import save_policy_model
from tests.families import FAMILY_CASES, picked
from tests.test_learner import REWARDS, assert_same, build, gradients, plain_grpo, settings
from tests.tiny_policies import made_up_group

(CASE,) = (case for case in FAMILY_CASES if case.name == "qwen2_5_omni")
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
    processor = build_omni_processor(tokenizer)
    learner = FAMILY.learner()
    for samples in (481, 16000, 16001, 33333, 29 * 16000 + 7, 31 * 16000 + 7):
        sound = np.random.default_rng(samples).normal(0, 0.1, samples).astype(np.float32)
        mel = learner.encode(processor, Clip("a", np.zeros((2, 28, 28, 3), np.uint8), 0.5, sound))["mel"]
        _, tokens = Qwen2_5OmniAudioEncoder._get_feat_extract_output_lengths(None, torch.tensor(mel.shape[1]))
        assert (mel.shape[0], int(tokens)) == (128, sound_tokens(samples)), samples


def test_a_tokenizer_without_a_template_gets_the_hubs(tokenizer):
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    start = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    end = "When?<|im_end|>\n<|im_start|>assistant\n"
    shown = "<|vision_bos|><|VIDEO|><|vision_eos|>"
    assert bare.decode(FAMILY.prompt_ids(bare, "When?", None)) == start + end
    assert bare.decode(FAMILY.prompt_ids(bare, "When?", Shape(2, 28, 28, 1.0))) == start + shown + end
    with pytest.raises(ConfigError, match="no chat template"):
        chat_text(bare, "When?")


def test_what_is_shown_is_decided_once():
    frames, prompt = fit(FramesConfig(), PromptConfig(), FAMILY)
    assert (frames.sound, frames.multiple, frames.max_step_s, prompt.box_space) == ("own", 28, 1.0, "frame")
    silent, _ = fit(FramesConfig(sound="silence", max_step_s=0.5, step_s=0.5), PromptConfig(), FAMILY)
    assert (silent.sound, silent.max_step_s) == ("silence", 0.5)
    with pytest.raises(ConfigError, match=r"frames\.step_s is 4; Qwen2\.5-Omni takes at most 1 s here"):
        fit(FramesConfig(step_s=4.0), PromptConfig(), FAMILY)
    assert fit(FramesConfig(step_s=4.0, sound="none"), PromptConfig(), FAMILY)[0].max_step_s is None


def test_pictures_too_far_apart_for_sound_are_refused(tokenizer):
    FAMILY.prompt_ids(tokenizer, "When?", Shape(5, 28, 56, 4.0))
    with pytest.raises(StepError) as caught:
        FAMILY.prompt_ids(tokenizer, "When?", Shape(5, 28, 56, 1.5, 16000))
    assert caught.value.reason == "step_too_long"


# --- training --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return CASE.save(tmp_path_factory.mktemp("omni"), seed=7)


def heard_groups(processor):
    forward = VideoForward(processor, FAMILY)
    clips = [CASE.clip("a", 4, 1), CASE.ways(CASE.clip("b", 5, 2))[1]]  # one of them without sound
    given = zip(clips, REWARDS, strict=True)
    return [made_up_group(forward, f"When is {n}?", clip, rewards, seed=n) for n, (clip, rewards) in enumerate(given)]


@pytest.mark.parametrize("frozen", [True, False])
def test_a_grpo_batch_agrees_with_plain_pytorch(folder, tmp_path, frozen):
    """Layers are computed again for the gradient, towers stand aside or learn."""
    config = settings(freeze_vision=frozen, gradient_checkpointing=True, importance_cap=1.05)
    learner = build(folder, tmp_path, config, lambda step: [])
    given = heard_groups(learner.processing_class)
    ours = gradients(learner, learner.micro_batches(given))
    model, processor = CASE.load(folder)
    for path in FAMILY.learner().towers:
        model.get_submodule(path).requires_grad_(not frozen)
    loss = plain_grpo(model, VideoForward(processor, FAMILY), given, config, most=16)
    loss.backward()
    wanted = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert_same(ours, (float(loss), wanted))
    assert any(name.startswith("audio_tower.") and slope.abs().sum() > 0 for name, slope in wanted.items()) != frozen


def test_an_adapter_learns_and_is_saved_with_towers_in_the_hubs_form(folder, tmp_path):
    config = settings(lora=LoraConfig(rank=4), freeze_vision=True)
    learner = build(folder, tmp_path, config, lambda step: heard_groups(learner.processing_class), steps=2)
    learner.train()
    adapted = {name.rpartition(".lora_")[0] for name, p in learner.model.named_parameters() if p.requires_grad}
    assert len(adapted) == 2 * 7 and all(".layers." in name and "tower" not in name for name in adapted)
    save_policy_model(learner.model, learner.processing_class, tmp_path / "saved", 0)
    saved, start = load_file(tmp_path / "saved" / "model.safetensors"), load_file(folder / "model.safetensors")
    assert saved.keys() == start.keys() and all(name.startswith("thinker.") for name in saved)
    moved = {name for name, value in start.items() if not torch.equal(saved[name], value)}
    assert moved == {f"thinker.{name.removeprefix('base_model.model.')}.weight" for name in adapted}


def test_a_supervised_step_is_plain_cross_entropy(folder, tmp_path):
    model, processor = CASE.load(folder)
    forward, steps = VideoForward(processor, FAMILY), []
    shown = CASE.clip("a", 4, 1)
    clips = [shown, CASE.clip("b", 3, 2), CASE.ways(shown)[1], None]
    answer = "<answer>\n<object>red drum</object>\n</answer>"
    rows = [example(forward, f"What sounds {n}?", answer, clip) for n, clip in enumerate(clips)]
    sft = SftConfig(rate=1e-2, batch=4, micro_batch=2, freeze_vision=False, max_steps=1)
    build_sft(folder, sft, rows, tmp_path / "out", on_step=lambda _, numbers: steps.append(numbers)).train()
    loss = -torch.cat([picked(CASE.score(model, processor, row, banned=False), row) for row in rows]).mean()
    loss.backward()
    norm = float(sum(p.grad.square().sum() for p in model.parameters() if p.grad is not None)) ** 0.5
    assert steps[0]["loss"] == pytest.approx(loss.item(), abs=1e-4)
    assert steps[0]["grad_norm"] == pytest.approx(norm, rel=1e-3)


def test_of_a_whole_omni_the_thinker_alone_is_loaded_and_a_thinker_alone_is_refused(folder, tmp_path):
    """As the hub's checkpoint is: talker and codec beside it."""
    shutil.copytree(folder, tmp_path / "whole")
    weights = load_file(folder / "model.safetensors")
    more = {"talker.model.norm.weight": torch.ones(4), "token2wav.code2wav_dit_model.norm.bias": torch.ones(4)}
    save_file({**weights, **more}, tmp_path / "whole" / "model.safetensors", {"format": "pt"})
    model = FAMILY.learner().load(str(tmp_path / "whole"), torch.float32)
    for name, value in CASE.load(folder)[0].state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    with pytest.raises(ValueError, match="a thinker alone"):
        whole(model.config)
    assert whole(AutoConfig.from_pretrained(folder)).model_type == "qwen2_5_omni"
