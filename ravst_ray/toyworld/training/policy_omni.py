"""A tiny Qwen2.5-Omni for the toy world: the thinker alone, which sees and hears, with the toy tokenizer.

    save_omni("out/omni", seed=0)      a randomly initialised one, as a Hugging Face directory

The directory has the form of the hub's: ``config.json`` of the whole Omni, weights named ``thinker.…``. A thinker that
writes itself (``save_pretrained``) takes another form, which vLLM runs by a fallback.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ravst_ray.policy.families.qwen2_5_omni import PROCESSOR_KWARGS, Qwen25Omni
from ravst_ray.toyworld.training.policy import POLICY, VOCABULARY, build_tokenizer, generation_config

HEARING = POLICY.with_name("qwen2_5_omni-tiny-toy")
"""The trained toy policy that hears."""
NAMED = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
"""Tokens that the processor asks the tokenizer for by these names."""
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *NAMED.values())
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<|vision_bos|><|VIDEO|><|vision_eos|>"
    "{% elif part['type'] == 'image' %}<|vision_bos|><|IMAGE|><|vision_eos|>"
    "{% elif part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_omni_tokenizer() -> Any:
    """The tokenizer, always the same one."""
    return build_tokenizer(special=_SPECIAL, named=NAMED, template=_TEMPLATE)


def thinker_config(
    tokenizer: Any,
    hidden: int = 128,
    layers: int = 6,
    vision: int = 96,
    depth: int = 3,
    audio: int = 96,
    audio_layers: int = 2,
    tied: bool = True,
    spread: float = 0.02,
) -> Any:
    """The configuration of a small thinker: heads of 32; the rotary shares are those of the toy Qwen2.5-VL.

    Args:
        tokenizer: from :func:`build_omni_tokenizer`.
        hidden: width of the language model, a multiple of 64.
        layers: of the language model.
        vision: width of the tower that sees, a multiple of 32.
        depth: its layers.
        audio: width of the tower that hears, a multiple of 32.
        audio_layers: its layers.
        tied: whether the embedding is the output layer, too.
        spread: standard deviation of random weights.
    """
    from transformers import Qwen2_5OmniThinkerConfig

    ids = tokenizer.get_vocab()
    return Qwen2_5OmniThinkerConfig(
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
            "tie_word_embeddings": tied,
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
            "tokens_per_second": 25,
        },
        audio_config={
            "initializer_range": spread,
            "d_model": audio,
            "encoder_layers": audio_layers,
            "encoder_attention_heads": audio // 32,
            "encoder_ffn_dim": audio * 2,
            "output_dim": hidden,
        },
        image_token_index=ids["<|IMAGE|>"],
        audio_token_index=ids["<|AUDIO|>"],
        video_token_index=ids["<|VIDEO|>"],
        vision_start_token_id=ids["<|vision_bos|>"],
        vision_end_token_id=ids["<|vision_eos|>"],
        audio_start_token_id=ids["<|audio_bos|>"],
        audio_end_token_id=ids["<|audio_eos|>"],
        user_token_id=tokenizer.encode("user")[0],
        tie_word_embeddings=tied,
        initializer_range=spread,
        eos_token_id=ids["<|im_end|>"],
        pad_token_id=ids["<|endoftext|>"],
    )


def build_omni_processor(tokenizer: Any) -> Any:
    """The processor that goes with the tokenizer, sized for small frames."""
    from transformers import (
        Qwen2_5OmniProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
        WhisperFeatureExtractor,
    )

    size = PROCESSOR_KWARGS["size"]
    return Qwen2_5OmniProcessor(
        image_processor=Qwen2VLImageProcessor(size=size),
        video_processor=Qwen2VLVideoProcessor(size=size, cap_pixels_per_frame=False),
        feature_extractor=WhisperFeatureExtractor(feature_size=128, chunk_length=30),
        tokenizer=tokenizer,
        chat_template=_TEMPLATE,
    )


def save_omni(folder: str | Path, seed: int = 0, **sizes: Any) -> Path:
    """A randomly initialised thinker, tokenizer and processor in ``folder``; ``sizes``: see :func:`thinker_config`."""
    import torch
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration

    tokenizer = build_omni_tokenizer()
    torch.manual_seed(seed)
    model = Qwen2_5OmniThinkerForConditionalGeneration(thinker_config(tokenizer, **sizes))
    model.generation_config = generation_config(tokenizer)
    target = Path(folder)
    Qwen25Omni().learner().save(model, model.state_dict(), target)
    build_omni_processor(tokenizer).save_pretrained(target)
    return target
