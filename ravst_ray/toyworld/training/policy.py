"""A tiny Qwen2.5-VL for the toy world: the real architecture, with a small tokenizer of its own.

    save_policy("out/policy", seed=0)      a randomly initialised one, as a Hugging Face directory

The tokenizer is Qwen2's (byte-level BPE), trained on prompts and answers of the toy world. The tags of the answer
grammar and the whole numbers up to the side of a frame are tokens of their own: a coordinate is one choice, not three.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ravst_ray.config.video_llm import PromptConfig
from ravst_ray.core.answers import ObjectAnswer, render
from ravst_ray.core.wording import SPATIAL_AUDIBLE, SPATIAL_SILENT, SPATIO_TEMPORAL, TEMPORAL
from ravst_ray.policy.families.qwen2_5_vl import Qwen25VL
from ravst_ray.policy.prompts import question_prompt
from ravst_ray.records import VideoView
from ravst_ray.toyworld.checkpoints import DETECTOR
from ravst_ray.toyworld.scene import NAMES

SIDE_PX = 112
VOCABULARY = 640
POLICY = DETECTOR.with_name("qwen2_5_vl-tiny-toy")
"""The trained toy policy."""
_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_TAGS = tuple(f"<{slash}{tag}>" for tag in ("answer", "object", "when", "where", "think") for slash in ("", "/"))
_NUMBERS = tuple(str(number) for number in range(10, SIDE_PX + 1))
_ASKED: tuple[tuple[str, str], ...] = (
    ("AVTR", TEMPORAL),
    ("AVSR", SPATIAL_AUDIBLE),
    ("AVSR", SPATIAL_SILENT),
    ("AVSTR", SPATIO_TEMPORAL),
)
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer(
    special: Sequence[str] = _SPECIAL, named: Mapping[str, str] | None = None, template: str = _TEMPLATE
) -> Any:
    """The tokenizer, always the same one.

    Args:
        special: tokens that no text has, the end of a text first, then those that open and close a message.
        named: those of them that a processor asks for by an attribute's name.
        template: of a chat.
    """
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    trained = Tokenizer(models.BPE())
    # Qwen2's own splitting, taken from an empty tokenizer of its class.
    trained.pre_tokenizer = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(special) - len(_TAGS) - len(_NUMBERS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator(_texts(), trainer)
    model = json.loads(trained.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(pair) for pair in model["merges"]],
        unk_token=special[0],
        eos_token=special[2],
        pad_token=special[0],
        additional_special_tokens=list(special[3:]),
        **(named or {}),
    )
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in (*_TAGS, *_NUMBERS)])
    tokenizer.chat_template = template
    return tokenizer


def _texts() -> Iterator[str]:
    """What the tokenizer is trained on: every question about every object under several prompts, and answers."""
    views = [
        VideoView(n, float(step), SIDE_PX, SIDE_PX, n * step + 0.5, 256, 256) for n, step in ((6, 1), (12, 1), (8, 2))
    ]
    prompts = [
        PromptConfig(box_space=space, integer_boxes=whole)
        for space in ("frame", "video", "thousand")
        for whole in (True, False)
    ]
    for name in NAMES:
        for task, wording in _ASKED:
            question = wording.format(name=name, start=1.2, end=5.4)
            for view in views:
                for prompt in prompts:
                    yield question_prompt(task, question, view, prompt)
        where = ((1.2, (3.0, 4.0, 55.0, 66.0)), (2.2, (5.0, 14.0, 57.0, 77.0)))
        yield render([ObjectAnswer(name, when=(1.2, 5.4), where=where)])


def policy_config(
    tokenizer: Any,
    hidden: int = 128,
    layers: int = 6,
    vision: int = 96,
    depth: int = 3,
    tied: bool = True,
    spread: float = 0.02,
) -> Any:
    """The configuration of a small model: heads of 32, ``hidden`` and ``vision`` multiples of 64 and 32.

    ``spread`` is the standard deviation of random weights. Qwen's 0.02 suits wide models; one of 128 trained from there
    takes hours to find out how to copy a word, and minutes from 0.08 (about 1 / sqrt(128)).

    Of a head's 16 rotary frequencies the axes get 2, 2 and 12, from the fastest on. With Qwen's own shares and base
    a column would turn the width's by 0.003 at most: the model couldn't tell where in the picture a token lies.
    """
    from transformers import Qwen2_5_VLConfig

    ids = tokenizer.get_vocab()
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "initializer_range": spread,
            "hidden_size": hidden,
            "intermediate_size": hidden * 3,
            "num_hidden_layers": layers,
            "num_attention_heads": hidden // 32,
            "num_key_value_heads": hidden // 64,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0, "mrope_section": [2, 2, 12]},
            "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": depth,
            "initializer_range": spread,
            "hidden_size": vision,
            "intermediate_size": vision * 2,
            "num_heads": vision // 32,
            "out_hidden_size": hidden,
            "fullatt_block_indexes": [depth - 1],
            "tokens_per_second": 1,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=tied,
        initializer_range=spread,
        bos_token_id=None,
        eos_token_id=ids["<|im_end|>"],
        pad_token_id=ids["<|endoftext|>"],
    )


def look_back(language: Any, layer: int, group: int, power: float = 60.0) -> None:
    """Set two heads of a language model, those of one key-value group, to begin by attending one and two tokens back.

    Copying needs them, and a small model takes long to find them. Only the biases and the size of the weights change.
    """
    import torch

    attention = language.layers[layer].self_attn
    turns = language.rotary_emb.inv_freq.float()
    strength = torch.where(turns > 0.1, power**0.5, 0.0)
    size = 2 * len(turns)
    with torch.no_grad():
        keys, queries = attention.k_proj.bias.view(-1, size), attention.q_proj.bias.view(-1, size)
        keys[group] = torch.cat([strength, torch.zeros_like(strength)])
        for back in (1, 2):
            angle = turns * back
            queries[2 * group + back - 1] = torch.cat([strength * angle.cos(), -strength * angle.sin()])
        attention.k_proj.weight.view(-1, size, attention.k_proj.in_features)[group] *= 0.3
        attention.q_proj.weight.view(-1, size, attention.q_proj.in_features)[2 * group : 2 * group + 2] *= 0.3


def build_processor(tokenizer: Any) -> Any:
    """The processor that goes with the tokenizer, sized for small frames."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    size = Qwen25VL.processor_kwargs["size"]
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(size=size, cap_pixels_per_frame=False),
        chat_template=_TEMPLATE,
    )


def save_policy(folder: str | Path, seed: int = 0, **sizes: Any) -> Path:
    """A randomly initialised model, tokenizer and processor in ``folder``; ``sizes`` go to :func:`policy_config`."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(policy_config(tokenizer, **sizes))
    model.generation_config = generation_config(tokenizer)
    target = Path(folder)
    model.save_pretrained(target)
    build_processor(tokenizer).save_pretrained(target)
    return target


def generation_config(tokenizer: Any) -> Any:
    """Where a completion ends."""
    from transformers import GenerationConfig

    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    return GenerationConfig(eos_token_id=end, pad_token_id=tokenizer.pad_token_id)
