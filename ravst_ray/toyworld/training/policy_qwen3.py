"""A tiny random Qwen3-VL with the toy world's tokenizer, dense or with experts.

save_qwen3("out/qwen3", seed=0)      as a Hugging Face directory
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ravst_ray.policy.families.qwen3_vl import PATCH_PX, Qwen3VL
from ravst_ray.toyworld.training.policy import VOCABULARY, build_tokenizer, generation_config


def qwen3_config(
    tokenizer: Any,
    hidden: int = 128,
    layers: int = 4,
    vision: int = 64,
    tied: bool = True,
    spread: float = 0.02,
    experts: int = 0,
) -> Any:
    """The configuration of a small model: heads of 32, ``hidden`` and ``vision`` multiples of 64 and 32.

    Args:
        tokenizer: from :func:`build_tokenizer`.
        hidden: width of the language model.
        layers: of the language model, three at least: features of three depths of the tower enter them.
        vision: width of the tower.
        tied: whether the output layer is the embedding.
        spread: standard deviation of random weights.
        experts: of each layer, two of which are asked for a token; 0: a dense model.
    """
    from transformers import Qwen3VLConfig, Qwen3VLMoeConfig

    ids = tokenizer.get_vocab()
    text: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "initializer_range": spread,
        "hidden_size": hidden,
        "intermediate_size": hidden * 3,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 32,
        "num_key_value_heads": hidden // 64,
        "head_dim": 32,
        "max_position_embeddings": 4096,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1000.0,
            "mrope_section": [6, 5, 5],  # half a head in all
            "mrope_interleaved": True,
        },
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "tie_word_embeddings": tied,
    }
    if experts:
        text |= {
            "num_experts": experts,
            "num_experts_per_tok": 2,
            "norm_topk_prob": True,
            "moe_intermediate_size": hidden * 3 // 4,
        }
    return (Qwen3VLMoeConfig if experts else Qwen3VLConfig)(
        text_config=text,
        vision_config={
            "depth": 4,
            "initializer_range": spread,
            "hidden_size": vision,
            "intermediate_size": vision * 2,
            "num_heads": vision // 32,
            "out_hidden_size": hidden,
            "deepstack_visual_indexes": [0, 1, 2],
            "num_position_embeddings": 64,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=tied,
        eos_token_id=ids["<|im_end|>"],
        pad_token_id=ids["<|endoftext|>"],
    )


def qwen3_processor(tokenizer: Any) -> Any:
    """The processor that goes with the tokenizer; pixels become -1 to 1, as with the published models."""
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    size, half = Qwen3VL.processor_kwargs["size"], [0.5] * 3
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size, patch_size=PATCH_PX, image_mean=half, image_std=half),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(size=size, cap_pixels_per_frame=False),
        chat_template=tokenizer.chat_template,
    )


def save_qwen3(folder: str | Path, seed: int = 0, **sizes: Any) -> Path:
    """A randomly initialised model, tokenizer and processor in ``folder``; ``sizes`` go to :func:`qwen3_config`."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import Qwen3VLForConditionalGeneration, Qwen3VLMoeForConditionalGeneration

    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    kind = Qwen3VLMoeForConditionalGeneration if sizes.get("experts") else Qwen3VLForConditionalGeneration
    model = kind(qwen3_config(tokenizer, **sizes))
    model.generation_config = generation_config(tokenizer)
    target = Path(folder)
    model.save_pretrained(target)
    if sizes.get("experts"):  # published ones have them transposed, and vLLM reads no others; transformers reads both
        file = target / "model.safetensors"
        weights = load_file(file)
        turned = {name: value.transpose(1, 2).contiguous() for name, value in weights.items() if ".experts." in name}
        save_file({**weights, **turned}, file, metadata={"format": "pt"})
    qwen3_processor(tokenizer).save_pretrained(target)
    return target
