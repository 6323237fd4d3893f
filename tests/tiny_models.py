"""Randomly initialised Grounding DINO and SAM 2, tiny and full-size, saved the way the published ones are."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    Sam2ImageProcessor,
    Sam2VideoConfig,
    Sam2VideoModel,
    Sam2VideoProcessor,
    SwinConfig,
)
from transformers.models.sam2.configuration_sam2 import Sam2HieraDetConfig, Sam2VisionConfig
from transformers.models.sam2_video.configuration_sam2_video import (
    Sam2VideoMaskDecoderConfig,
    Sam2VideoPromptEncoderConfig,
)
from transformers.models.sam2_video.video_processing_sam2_video import Sam2VideoVideoProcessor

# Grounding DINO has these ids built in (facts of bert-base-uncased); words of our own stand behind them.
_FIXED = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
WORDS = ("red", "blue", "green", "drum", "bell", "ball", "man", "two", "young", "boys", "a", "with", "hat", "##s", "st")
_FIRST_WORD = 1040


def save_detector(folder: Path, max_text_len: int = 32, dtype: torch.dtype = torch.float32) -> str:
    """A tiny detector in ``folder``; scores spread over 0-1 instead of crowding at one value."""
    folder.mkdir(parents=True, exist_ok=True)
    image_processor = GroundingDinoImageProcessor(size={"height": 64, "width": 64})
    torch.manual_seed(0)
    model = GroundingDinoForObjectDetection(
        GroundingDinoConfig(
            backbone_config=SwinConfig(
                image_size=64,
                embed_dim=16,
                depths=[1, 1, 1, 1],
                num_heads=[2, 2, 2, 2],
                window_size=4,
                out_indices=[2, 3, 4],
            ),
            text_config=BertConfig(
                vocab_size=_FIRST_WORD + len(WORDS),
                hidden_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=32,
                max_position_embeddings=max_text_len,
            ),
            num_queries=12,
            d_model=32,
            encoder_layers=1,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            num_feature_levels=3,
            max_text_len=max_text_len,
        )
    ).eval()
    with torch.no_grad():
        model.model.decoder.layer_norm.weight.mul_(0.5)
        for layer in model.model.encoder.layers:
            layer.fusion_layer.vision_param.fill_(0.3)
            layer.fusion_layer.text_param.fill_(0.3)
    model.to(dtype).save_pretrained(folder)
    GroundingDinoProcessor(image_processor, _tokenizer(folder)).save_pretrained(folder)
    return str(folder)


def save_segmenter(folder: Path, dtype: torch.dtype = torch.float32) -> str:
    """A tiny SAM 2 video model in ``folder``."""
    torch.manual_seed(0)
    size = 64
    config = Sam2VideoConfig(
        vision_config=Sam2VisionConfig(
            backbone_config=Sam2HieraDetConfig(
                hidden_size=8,
                num_attention_heads=1,
                image_size=[size, size],
                blocks_per_stage=[1, 1, 2, 1],
                embed_dim_per_stage=[8, 16, 32, 64],
                num_attention_heads_per_stage=[1, 2, 4, 8],
                window_size_per_stage=[8, 4, 8, 4],
                global_attention_blocks=[3],
                window_positional_embedding_background_size=[4, 4],
            ),
            backbone_channel_list=[64, 32, 16, 8],
            backbone_feature_sizes=[[size // 4] * 2, [size // 8] * 2, [size // 16] * 2],
            fpn_hidden_size=128,
        ),
        prompt_encoder_config=Sam2VideoPromptEncoderConfig(hidden_size=128, image_size=size),
        mask_decoder_config=Sam2VideoMaskDecoderConfig(
            hidden_size=128, mlp_dim=64, num_attention_heads=2, iou_head_hidden_dim=64
        ),
        image_size=size,
        memory_attention_hidden_size=128,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=64,
        memory_attention_rope_feat_sizes=[size // 16, size // 16],
        memory_encoder_hidden_size=128,
        memory_encoder_output_channels=64,  # transformers has this number built in, and it must divide 128
        mask_downsampler_embed_dim=128,
        memory_fuser_embed_dim=128,
        memory_fuser_intermediate_dim=64,
    )
    model = Sam2VideoModel(config).eval()
    with torch.no_grad():
        model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(3.0)
    model.to(dtype).save_pretrained(folder)
    side = {"height": size, "width": size}
    mask_side = {"height": size // 4, "width": size // 4}
    Sam2VideoProcessor(
        Sam2ImageProcessor(size=side, mask_size=mask_side), Sam2VideoVideoProcessor(size=side), target_size=size
    ).save_pretrained(folder)
    return str(folder)


def save_medium_detector(folder: Path) -> str:
    """The architecture of ``IDEA-Research/grounding-dino-tiny`` (172 M parameters), for pictures of 320 pixels."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    size = {"shortest_edge": 320, "longest_edge": 640}
    GroundingDinoForObjectDetection(GroundingDinoConfig()).save_pretrained(folder)
    GroundingDinoProcessor(GroundingDinoImageProcessor(size=size), _tokenizer(folder)).save_pretrained(folder)
    return str(folder)


def save_medium_segmenter(folder: Path, size: int = 512) -> str:
    """The architecture of ``facebook/sam2.1-hiera-tiny`` (39 M parameters), for pictures of 512 pixels."""
    vision = Sam2VisionConfig(
        backbone_config=Sam2HieraDetConfig(image_size=[size, size]),
        backbone_feature_sizes=[[size // 4] * 2, [size // 8] * 2, [size // 16] * 2],
    )
    config = Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config=Sam2VideoPromptEncoderConfig(image_size=size),
        image_size=size,
        memory_attention_rope_feat_sizes=[size // 16, size // 16],
    )
    torch.manual_seed(0)
    model = Sam2VideoModel(config)
    with torch.no_grad():
        model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(3.0)
    model.save_pretrained(folder)
    side, mask_side = ({"height": edge, "width": edge} for edge in (size, size // 4))
    Sam2VideoProcessor(
        Sam2ImageProcessor(size=side, mask_size=mask_side), Sam2VideoVideoProcessor(size=side), target_size=size
    ).save_pretrained(folder)
    return str(folder)


def save_full_detector(folder: Path) -> str:
    """The architecture of ``IDEA-Research/grounding-dino-base`` (Swin-B, BERT-base), random weights, float16."""
    folder.mkdir(parents=True)
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            image_size=384,
            embed_dim=128,
            depths=[2, 2, 18, 2],
            num_heads=[4, 8, 16, 32],
            window_size=12,
            out_indices=[2, 3, 4],
        )
    )
    torch.manual_seed(0)
    GroundingDinoForObjectDetection(config).half().save_pretrained(folder)
    GroundingDinoProcessor(GroundingDinoImageProcessor(), _tokenizer(folder)).save_pretrained(folder)
    return str(folder)


def save_full_segmenter(folder: Path) -> str:
    """The architecture of ``facebook/sam2.1-hiera-large``, random weights, float16."""
    vision = Sam2VisionConfig(
        backbone_config=Sam2HieraDetConfig(
            hidden_size=144,
            num_attention_heads=2,
            blocks_per_stage=[2, 6, 36, 4],
            embed_dim_per_stage=[144, 288, 576, 1152],
            num_attention_heads_per_stage=[2, 4, 8, 16],
            window_size_per_stage=[8, 4, 16, 8],
            global_attention_blocks=[23, 33, 43],
        ),
        backbone_channel_list=[1152, 576, 288, 144],
    )
    torch.manual_seed(0)
    model = Sam2VideoModel(Sam2VideoConfig(vision_config=vision))
    with torch.no_grad():
        model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(3.0)
    model.half().save_pretrained(folder)
    Sam2VideoProcessor(Sam2ImageProcessor(), Sam2VideoVideoProcessor()).save_pretrained(folder)
    return str(folder)


def _tokenizer(folder: Path) -> BertTokenizer:
    tokens = [_FIXED.get(i, f"[unused{i}]") for i in range(_FIRST_WORD)] + list(WORDS)
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    return BertTokenizer(str(folder / "vocab.txt"), do_lower_case=True)
