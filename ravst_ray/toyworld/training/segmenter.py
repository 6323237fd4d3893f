"""A tiny SAM 2 for the toy world: configuration, first weights, and a differentiable unrolling over a clip.

``Sam2VideoModel.forward`` runs under inference mode, so training calls the model's parts itself: image encoder, prompt
encoder, mask decoder, memory encoder and memory attention, put together as the model's own single-frame step does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn import functional
from transformers import (
    Sam2HieraDetConfig,
    Sam2ImageProcessor,
    Sam2VideoConfig,
    Sam2VideoMaskDecoderConfig,
    Sam2VideoModel,
    Sam2VideoProcessor,
    Sam2VideoPromptEncoderConfig,
    Sam2VideoVideoProcessor,
    Sam2VisionConfig,
)

from ravst_ray.toyworld.training.samples import MODEL_SIZE_PX

_WIDTH = 128


def build_processor() -> Sam2VideoProcessor:
    """The processor, resizing to 128 x 128."""
    size = {"height": MODEL_SIZE_PX, "width": MODEL_SIZE_PX}
    mask_size = {"height": MODEL_SIZE_PX // 4, "width": MODEL_SIZE_PX // 4}
    return Sam2VideoProcessor(Sam2ImageProcessor(size=size, mask_size=mask_size), Sam2VideoVideoProcessor(size=size))


def build_model() -> Sam2VideoModel:
    """A fresh model of 1.9 M parameters; always one mask per object, as boxes leave no ambiguity."""
    backbone = Sam2HieraDetConfig(
        hidden_size=24,
        image_size=[MODEL_SIZE_PX, MODEL_SIZE_PX],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[24, 48, 96, 192],
        num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=[8, 4, 8, 4],
        global_attention_blocks=[3],
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[192, 96, 48, 24],
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
        fpn_hidden_size=_WIDTH,
    )
    decoder = Sam2VideoMaskDecoderConfig(
        hidden_size=_WIDTH, mlp_dim=256, iou_head_hidden_dim=_WIDTH, dynamic_multimask_via_stability=False
    )
    config = Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config=Sam2VideoPromptEncoderConfig(hidden_size=_WIDTH, image_size=MODEL_SIZE_PX),
        mask_decoder_config=decoder,
        image_size=MODEL_SIZE_PX,
        multimask_output_in_sam=False,
        multimask_output_for_tracking=False,
        memory_attention_hidden_size=_WIDTH,
        memory_attention_num_layers=2,
        memory_attention_feed_forward_hidden_size=256,
        memory_attention_dropout=0.0,
        memory_attention_rope_dropout=0.0,
        memory_attention_rope_feat_sizes=[8, 8],
        memory_encoder_hidden_size=_WIDTH,
        mask_downsampler_embed_dim=_WIDTH,
        memory_fuser_embed_dim=_WIDTH,
        memory_fuser_intermediate_dim=256,
    )
    model = Sam2VideoModel(config).eval()
    _prepare(model)
    return model


@torch.no_grad()
def _prepare(model: Any) -> None:
    """Undo first values that keep a model from learning: separate position codes, closed scales, a shut object gate."""
    model.prompt_encoder.shared_embedding.positional_embedding.copy_(model.shared_image_embedding.positional_embedding)
    for layer in model.memory_encoder.memory_fuser.layers:
        layer.scale.fill_(0.1)
    backbone: Any = model.vision_encoder.backbone
    codes = [backbone.pos_embed, backbone.pos_embed_window, model.memory_temporal_positional_encoding]
    absent = [model.no_memory_embedding, model.no_object_pointer, model.occlusion_spatial_embedding_parameter]
    for weight in codes + absent:
        torch.nn.init.trunc_normal_(weight, std=0.02)
    model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(3.0)


@dataclass
class Memory:
    """What the model remembers of a batch of objects, in the form in which its own session keeps it."""

    frames: int
    prompted: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)
    tracked: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)

    def session(self) -> Any:
        """A stand-in for ``Sam2VideoInferenceSession`` with one "object" that is the whole batch."""
        return SimpleNamespace(
            output_dict_per_obj=[{"cond_frame_outputs": self.prompted, "non_cond_frame_outputs": self.tracked}]
        )


@dataclass(frozen=True)
class Prediction:
    """One frame, ``B`` objects: mask logits ``[B, 32, 32]``, predicted IoU ``[B]`` and object score logit ``[B]``."""

    logits: torch.Tensor
    iou: torch.Tensor
    score: torch.Tensor


def encode(model: Sam2VideoModel, pixels: torch.Tensor, owner: torch.Tensor) -> tuple[list, torch.Tensor]:
    """Image features per object: levels ``[HW, B, C]`` and the position code of the coarsest level.

    Args:
        model: the segmenter.
        pixels: normalised frames ``[I, 3, 128, 128]``.
        owner: for each object the index of its frame ``[B]``.
    """
    outputs = model.get_image_features(pixels, return_dict=True)
    levels = [level[:, owner] for level in outputs.fpn_hidden_states]
    return levels, outputs.fpn_position_encoding[-1][:, owner]


def _with_memory(
    model: Sam2VideoModel, memory: Memory, t: int, top: torch.Tensor, position: torch.Tensor
) -> torch.Tensor:
    """Coarsest features ``[B, C, 8, 8]`` after attention to the remembered frames."""
    session = memory.session()
    batch = top.shape[1]
    outputs = model._gather_memory_frame_outputs(session, 0, t)
    memories, codes = model._build_memory_attention_inputs(outputs, top.device)
    offsets, pointers, most = model._get_object_pointers(session, 0, t, memory.frames, top.device)
    pointer_tokens, pointer_codes = model._process_object_pointers(
        offsets, pointers, most, batch, model.hidden_dim, top.device
    )
    attended = model.memory_attention(
        current_vision_features=top,
        current_vision_position_embeddings=position,
        memory=torch.cat([*memories, pointer_tokens]).float(),
        memory_posision_embeddings=torch.cat([*codes, pointer_codes]),
        num_object_pointer_tokens=pointer_tokens.shape[0],
    )
    return attended.reshape(batch, -1, model.hidden_dim).transpose(1, 2).reshape(batch, -1, 8, 8)


def step(
    model: Sam2VideoModel,
    levels: list[torch.Tensor],
    position: torch.Tensor,
    memory: Memory | None,
    t: int,
    boxes: torch.Tensor | None,
    fresh: bool,
) -> Prediction:
    """One frame for a batch of objects, as ``Sam2VideoModel._run_single_frame_inference`` does it for one.

    Args:
        model: the segmenter.
        levels: from :func:`encode`.
        position: from :func:`encode`.
        memory: read, and extended by this frame; None for single images.
        t: frame index.
        boxes: prompts xyxy in pixels of the 128 x 128 frame ``[B, 4]``; None to follow from memory.
        fresh: a prompted frame that starts anew, without looking at the memory.
    """
    batch = levels[0].shape[1]
    fine, middle, top = levels
    if fresh or memory is None:
        features = (top + model.no_memory_embedding).permute(1, 2, 0).reshape(batch, -1, 8, 8)
    else:
        features = _with_memory(model, memory, t, top, position)
    maps = [fine.permute(1, 2, 0).reshape(batch, -1, 32, 32), middle.permute(1, 2, 0).reshape(batch, -1, 16, 16)]
    if boxes is None:
        points, labels = torch.zeros(batch, 1, 1, 2), -torch.ones(batch, 1, 1, dtype=torch.int32)
    else:
        points = boxes.reshape(batch, 1, 2, 2)
        labels = torch.tensor([2, 3], dtype=torch.int32).expand(batch, 1, 2)
    sparse, dense = model.prompt_encoder(input_points=points, input_labels=labels, input_boxes=None, input_masks=None)
    masks, iou, tokens, score = model.mask_decoder(
        image_embeddings=features,
        image_positional_embeddings=model.get_image_wide_positional_embeddings().expand(batch, -1, -1, -1),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
        high_resolution_features=maps,
    )
    prediction = Prediction(masks[:, 0, 0], iou[:, 0, 0], score[:, 0, 0])
    if memory is not None:
        _remember(model, memory, t, top, prediction, tokens[:, :, 0], boxes is not None, fresh)
    return prediction


def _remember(
    model: Sam2VideoModel,
    memory: Memory,
    t: int,
    top: torch.Tensor,
    prediction: Prediction,
    token: torch.Tensor,
    prompted: bool,
    fresh: bool,
) -> None:
    """Encode this frame's masks and object pointers, with the model's own gate on absent objects."""
    there = (prediction.score > 0).float()[:, None, None]
    pointer = there * model.object_pointer_proj(token) + (1 - there) * model.no_object_pointer
    logits = torch.where(prediction.score[:, None, None] > 0, prediction.logits, torch.tensor(-1024.0))
    large = functional.interpolate(logits[:, None], (MODEL_SIZE_PX, MODEL_SIZE_PX), mode="bilinear")
    features, code = model._encode_new_memory(top, large, prediction.score[:, None, None], prompted)
    entry = {"maskmem_features": features, "maskmem_pos_enc": code, "object_pointer": pointer}
    (memory.prompted if fresh else memory.tracked)[t] = entry


def segmentation_loss(prediction: Prediction, masks: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """5 focal + 2 BCE + dice on visible objects' masks, 0.3 squared error of the IoU, BCE of the object score.

    Args:
        prediction: of one frame.
        masks: true coverage 0-1, ``[B, 128, 128]``.
        seen: whether the object can be seen ``[B]``.
    """
    score = functional.binary_cross_entropy_with_logits(prediction.score, seen.float())
    if not seen.any():
        return score
    logits = functional.interpolate(prediction.logits[seen][:, None], masks.shape[-2:], mode="bilinear")[:, 0]
    target = masks[seen]
    probability = logits.sigmoid()
    cross = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    focal = (cross * (probability - target) ** 2).mean()
    dice = 1 - (2 * (probability * target).sum((1, 2)) + 1) / ((probability + target).sum((1, 2)) + 1)
    with torch.no_grad():
        hard, true = logits > 0, target >= 0.5
        iou = (hard & true).sum((1, 2)) / (hard | true).sum((1, 2)).clamp(min=1)
    quality = functional.mse_loss(prediction.iou[seen], iou)
    return 5 * focal + 2 * cross.mean() + dice.mean() + 0.3 * quality + score
