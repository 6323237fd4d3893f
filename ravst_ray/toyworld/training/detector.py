"""A tiny Grounding DINO for the toy world: configuration, vocabulary, first weights, and a loss that trains it.

transformers' own loss can't train this architecture from scratch (its encoder boxes are detached), so the loss is ours:
focal loss on the tokens, L1 and GIoU on the boxes, for the encoder's proposals (four per object) and for every decoder
layer (one per object, Hungarian matching).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch.nn import functional
from torchvision.ops import box_convert, generalized_box_iou, generalized_box_iou_loss
from transformers import (
    BertConfig,
    BertTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    SwinConfig,
)

from ravst_ray.toyworld.sprites import COLOURS, SHAPES
from ravst_ray.toyworld.training.samples import MODEL_SIZE_PX

# Positions that transformers' Grounding DINO has built in; words of our own start behind them.
_FIXED_TOKENS = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
_FIRST_WORD = 1040
_WORDS = (*COLOURS, *SHAPES, "a", "an", "the", "silent", "small", "large", "and", "##s", "##ing")
_PRIOR_LOGIT = -4.0
_FUSION_GATE = 0.3
_WIDTH = 64


def build_processor(folder: Path) -> GroundingDinoProcessor:
    """The processor with an own vocabulary, whose file is written to ``folder``."""
    tokens = [_FIXED_TOKENS.get(i, f"[unused{i}]") for i in range(_FIRST_WORD)] + list(_WORDS)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(tokens) + "\n")
    tokenizer = BertTokenizer(str(vocabulary), do_lower_case=True)
    size = {"height": MODEL_SIZE_PX, "width": MODEL_SIZE_PX}
    return GroundingDinoProcessor(GroundingDinoImageProcessor(size=size), tokenizer)


def build_model() -> GroundingDinoForObjectDetection:
    """A fresh model of 1.3 M parameters whose gates and priors let it learn from scratch."""
    backbone = SwinConfig(
        image_size=MODEL_SIZE_PX,
        embed_dim=24,
        depths=[1, 1, 2, 1],
        num_heads=[2, 2, 4, 4],
        window_size=4,
        drop_path_rate=0.0,
        out_indices=[2, 3, 4],
    )
    config = GroundingDinoConfig(
        backbone_config=backbone,
        text_config=BertConfig(
            vocab_size=_FIRST_WORD + len(_WORDS),
            hidden_size=_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            max_position_embeddings=64,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ),
        num_queries=20,
        d_model=_WIDTH,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        num_feature_levels=3,
        max_text_len=64,
        two_stage=True,
        dropout=0.0,
        fusion_droppath=0.0,
    )
    model = GroundingDinoForObjectDetection(config)
    _prepare(model)
    return model


@torch.no_grad()
def _prepare(model: GroundingDinoForObjectDetection) -> None:
    """Open the fusion gates (they start at 1e-4) and give the bias-free contrastive head a prior.

    The head is a product of two LayerNorm outputs: opposite biases of 2 / sqrt(d) make it start around -4.
    """
    for layer in model.model.encoder.layers:
        layer.fusion_layer.vision_param.fill_(_FUSION_GATE)
        layer.fusion_layer.text_param.fill_(_FUSION_GATE)
    shift = math.sqrt(-_PRIOR_LOGIT / _WIDTH)
    text_norm = model.model.encoder.layers[-1].text_enhancer_layer.layer_norm_after
    norms = [(text_norm, -shift), (model.model.decoder.layer_norm, shift), (model.model.enc_output_norm, shift)]
    for norm, bias in norms:
        norm.weight.fill_(0.5)
        norm.bias.fill_(bias)


def phrase_tokens(input_ids: torch.Tensor, phrases: int) -> torch.Tensor:
    """Which tokens belong to which phrase of a prompt: bool ``[phrases, L]``; phrases end with a full stop."""
    spans = torch.zeros(phrases, len(input_ids), dtype=torch.bool)
    phrase = 0
    for position, token in enumerate(input_ids.tolist()):
        if token == 1012:
            phrase += 1
        elif token not in (0, 101, 102) and phrase < phrases:
            spans[phrase, position] = True
    return spans


def detection_loss(
    outputs: Any, attention_mask: torch.Tensor, boxes: Sequence[torch.Tensor], tokens: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Sum of the losses of the encoder's proposals and of all decoder layers, per object of the batch.

    Args:
        outputs: of the model.
        attention_mask: of the prompts ``[B, L]``.
        boxes: true boxes per image, cxcywh in 0-1, ``[N, 4]``.
        tokens: positive tokens per object, float ``[N, L]``.
    """
    width = attention_mask.shape[1]
    total = max(sum(len(b) for b in boxes), 1)
    loss = _stage_loss(
        outputs.enc_outputs_class[..., :width], outputs.enc_outputs_coord_logits, attention_mask, boxes, tokens, 4
    )
    for logits, coords in outputs.stages:
        loss = loss + _stage_loss(logits[..., :width], coords, attention_mask, boxes, tokens, 1)
    return loss / total


def forward_stages(model: GroundingDinoForObjectDetection, **inputs: torch.Tensor) -> Any:
    """The model's outputs with ``stages``: logits and box logits of every decoder layer, gradients and all."""
    outputs = model.model(return_dict=True, **inputs)
    references = [outputs.init_reference_points, *outputs.intermediate_reference_points.unbind(1)]
    stages = []
    for level, hidden in enumerate(outputs.intermediate_hidden_states.unbind(1)):
        logits = model.class_embed[level](
            hidden, outputs.encoder_last_hidden_state_text, inputs["attention_mask"].bool()
        )
        coords = model.bbox_embed[level](hidden) + torch.special.logit(references[level], eps=1e-5)
        stages.append((logits, coords))
    outputs.stages = stages
    return outputs


def _stage_loss(
    logits: torch.Tensor,
    coord_logits: torch.Tensor,
    attention_mask: torch.Tensor,
    boxes: Sequence[torch.Tensor],
    tokens: Sequence[torch.Tensor],
    copies: int,
) -> torch.Tensor:
    """Loss of one stage, summed over the batch; each object is matched to ``copies`` queries of its image."""
    valid = coord_logits.isfinite().all(-1)
    real = valid[..., None] & attention_mask[:, None].bool()
    logits = logits.masked_fill(~real, -30.0)
    coords = coord_logits.nan_to_num(posinf=30.0).sigmoid()
    images, rows, objects = _match(logits, coords, valid, boxes, tokens, copies)
    all_boxes, all_tokens = torch.cat(list(boxes)), torch.cat(list(tokens))
    target = torch.zeros_like(logits)
    target[images, rows] = all_tokens[objects]
    loss = 2 * (_focal(logits, target) * real).sum()
    if len(objects):
        picked, true = coords[images, rows], all_boxes[objects]
        corners = box_convert(picked, "cxcywh", "xyxy"), box_convert(true, "cxcywh", "xyxy")
        loss = loss + 2 * generalized_box_iou_loss(*corners, reduction="sum")
        loss = loss + 5 * functional.l1_loss(picked, true, reduction="sum")
    return loss / copies


def _focal(logits: torch.Tensor, target: torch.Tensor, alpha: float = 0.4) -> torch.Tensor:
    """Focal loss with gamma 2 (Lin et al. 2017, equation 5)."""
    probability = logits.sigmoid()
    cross = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    wrong = probability * (1 - target) + (1 - probability) * target
    return (alpha * target + (1 - alpha) * (1 - target)) * wrong**2 * cross


@torch.no_grad()
def _match(
    logits: torch.Tensor,
    coords: torch.Tensor,
    valid: torch.Tensor,
    boxes: Sequence[torch.Tensor],
    tokens: Sequence[torch.Tensor],
    copies: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Best assignment by class, L1 and GIoU: images, queries, and objects as counted over the whole batch."""
    probability = logits.sigmoid()
    positive = 0.4 * (1 - probability) ** 2 * -(probability + 1e-8).log()
    negative = 0.6 * probability**2 * -(1 - probability + 1e-8).log()
    gain, corners = 2 * (positive - negative), box_convert(coords, "cxcywh", "xyxy")
    images, rows, objects = [], [], []
    first = 0
    for i, (true, words) in enumerate(zip(boxes, tokens, strict=True)):
        if len(true):
            cost = gain[i] @ (words / words.sum(1, keepdim=True)).T + 5 * torch.cdist(coords[i], true, p=1)
            cost -= 2 * generalized_box_iou(corners[i], box_convert(true, "cxcywh", "xyxy"))
            cost[~valid[i]] = 1e4
            row, column = linear_sum_assignment(cost.repeat(1, copies).numpy())
            images.append(torch.full((len(row),), i))
            rows.append(torch.as_tensor(row))
            objects.append(torch.as_tensor(column) % len(true) + first)
        first += len(true)
    empty = torch.zeros(0, dtype=torch.long)
    return torch.cat([empty, *images]), torch.cat([empty, *rows]), torch.cat([empty, *objects])
