"""Grounding DINO (arXiv 2303.05499) as a detector of named objects."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ravst_ray.errors import ConfigError
from ravst_ray.grounding.protocols import Detection
from ravst_ray.logs import get_logger
from ravst_ray.models.pretrained import loading, memory_guard, model_source, resolve_device, resolve_dtype
from ravst_ray.records import Box

log = get_logger(__name__)

_KEY = "grounding.detector"
_UNSPEAKABLE = re.compile(r"[^\w'&+/-]+")  # "." and "?" end a phrase for the model, other signs are noise


@dataclass(frozen=True)
class Prompt:
    """Phrases as one token sequence, ``[CLS] red drum . blue bell . [SEP]``.

    ``spans`` holds the token range ``(start, stop)`` of each phrase and ``names`` the index of the name it stands for.
    """

    token_ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    names: tuple[int, ...]


def clean_phrase(name: str) -> str:
    """A name as the model was trained to read one: lower case, single spaces, no sign that would end a phrase.

    >>> clean_phrase(" A  Man (St. Nick?) ")
    'a man st nick'
    """
    return " ".join(_UNSPEAKABLE.sub(" ", name.lower().replace("_", " ")).split())


def build_prompts(names: Sequence[str], tokenizer, max_tokens: int) -> list[Prompt]:
    """Pack names into as few prompts as their token limit allows, in order.

    Names that are the same once cleaned are asked for once, under the first one's index; a name of which nothing is
    left is not asked for, and one too long for a prompt of its own is cut.
    """
    dot, first, last = (tokenizer.convert_tokens_to_ids(sign) for sign in (".", "[CLS]", "[SEP]"))
    phrases: dict[str, int] = {}
    for index, name in enumerate(names):
        phrases.setdefault(clean_phrase(name), index)
    prompts: list[Prompt] = []
    for phrase, index in phrases.items():
        tokens = tokenizer(phrase, add_special_tokens=False)["input_ids"][: max_tokens - 3]
        if not tokens:
            continue
        if not prompts or len(prompts[-1].token_ids) + len(tokens) + 1 > max_tokens:
            prompts.append(Prompt((first, last), (), ()))
        begun = prompts[-1]
        start = len(begun.token_ids) - 1
        prompts[-1] = Prompt(
            (*begun.token_ids[:-1], *tokens, dot, last),
            (*begun.spans, (start, start + len(tokens))),
            (*begun.names, index),
        )
    return prompts


def name_boxes(
    probs: np.ndarray, spans: Sequence[tuple[int, int]], box_threshold: float, text_threshold: float
) -> Iterator[tuple[int, int, float]]:
    """Which queries are objects, and which phrase each one shows.

    A token counts when its probability is above ``text_threshold``. A phrase is in question for a query when its best
    token counts and is above ``box_threshold``: that probability is the score. Among several phrases the one with the
    highest mean over its tokens wins (tokens that don't count are 0): with the best token alone, "red drum" and
    "red bell" would be one and the same wherever "red" is the surest word. The mean over a phrase's tokens is also
    what the authors' evaluation on COCO uses.

    Args:
        probs: ``[queries, tokens]`` in [0, 1].
        spans: token range of each phrase.
        box_threshold: least score of a box.
        text_threshold: least probability of a token.

    Yields:
        (query, index into ``spans``, score)
    """
    counted = np.where(probs > text_threshold, probs, 0.0)
    best_QP = np.stack([counted[:, start:stop].max(axis=1) for start, stop in spans], axis=1)
    mean_QP = np.stack([counted[:, start:stop].mean(axis=1) for start, stop in spans], axis=1)
    mean_QP[best_QP <= box_threshold] = -1.0
    phrase_Q = mean_QP.argmax(axis=1)
    for query in np.flatnonzero(mean_QP.max(axis=1) > 0):
        phrase = int(phrase_Q[query])
        yield int(query), phrase, float(best_QP[query, phrase])


def suppress(detections: Sequence[Detection], max_iou: float) -> list[Detection]:
    """The detections by falling score, without those that overlap a better one by more than ``max_iou``.

    Names play no part: one place is claimed by one name, the surer one.
    """
    from torch import tensor
    from torchvision.ops import nms

    if not detections:
        return []
    boxes = tensor([found.box_xyxy_px for found in detections])
    keep = nms(boxes, tensor([found.score for found in detections]), max_iou)
    return [detections[index] for index in keep.tolist()]


class GroundingDino:
    """A :class:`~ravst_ray.policy.protocols.Detector` over any Grounding DINO that transformers can load.

    Args:
        model: hub name (``IDEA-Research/grounding-dino-base``) or local directory.
        device: ``auto``, ``cpu`` or ``cuda``.
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``. On a GPU ``auto`` is float16: boxes of the base model
            move by 0.2 px of 1920 against float32, in bfloat16 by 6 px, and both are as fast
            (tests/benchmarks/gpu_grounding.py).
        box_threshold: least score of a box, in [0, 1].
        text_threshold: least probability of a token that counts, in [0, 1].
        nms_iou: of two boxes that overlap more than this the surer one stays.
        batch_frames: frames per forward pass; halved once when the card is full.

    Raises:
        ConfigError: the model can't be found or is of another kind, or the device isn't there.
    """

    def __init__(
        self,
        model: str,
        device: str = "auto",
        dtype: str = "auto",
        box_threshold: float = 0.4,
        text_threshold: float = 0.3,
        nms_iou: float = 0.6,
        batch_frames: int = 8,
    ):
        from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

        self.device = resolve_device(device)
        self.dtype = resolve_dtype(dtype, self.device, on_gpu="float16")
        self.box_threshold, self.text_threshold, self.nms_iou = box_threshold, text_threshold, nms_iou
        self.batch_frames = batch_frames
        source = model_source(model, _KEY)
        with loading(model, _KEY):
            self.processor = AutoProcessor.from_pretrained(source)
            net = AutoModelForZeroShotObjectDetection.from_pretrained(source, dtype=self.dtype)
        if not hasattr(net.config, "max_text_len"):
            raise ConfigError(f"{_KEY}: {model} is a {net.config.model_type} model, no Grounding DINO")
        self.model = net.to(self.device).eval()

    def detect(self, frames_T: Sequence[np.ndarray], names: Sequence[str]) -> list[list[Detection]]:
        """Detections per frame, sorted by falling score; ``phrase`` indexes ``names``.

        Raises:
            StepError: ``out_of_memory``, also with half as many frames at once.
            ConfigError: the model's numbers overflow in its dtype.
        """
        prompts = build_prompts(names, self.processor.tokenizer, self.model.config.max_text_len)
        if not prompts:
            return [[] for _ in frames_T]
        found_T: list[list[Detection]] = []
        while len(found_T) < len(frames_T):
            found_T += self._detect_some(frames_T[len(found_T) :], prompts)
        return found_T

    def _detect_some(self, frames_T: Sequence[np.ndarray], prompts: Sequence[Prompt]) -> list[list[Detection]]:
        import torch

        try:
            return self._detect_batch(frames_T[: self.batch_frames], prompts)
        except torch.OutOfMemoryError:
            self.batch_frames = max(1, self.batch_frames // 2)
            log.warning("the detector ran out of GPU memory: going on with %d frames at once", self.batch_frames)
        torch.cuda.empty_cache()  # out of the handler, whose traceback keeps the failed pass's tensors alive
        with memory_guard("the detector"):
            return self._detect_batch(frames_T[: self.batch_frames], prompts)

    def _detect_batch(self, frames_B: Sequence[np.ndarray], prompts: Sequence[Prompt]) -> list[list[Detection]]:
        import torch

        height, width = frames_B[0].shape[:2]
        images = self.processor.image_processor(images=list(frames_B), return_tensors="pt")
        pixels = images["pixel_values"].to(self.device, self.dtype)
        pixel_mask = images["pixel_mask"].to(self.device)
        found_B: list[list[Detection]] = [[] for _ in frames_B]
        for prompt in prompts:
            ids = torch.tensor([prompt.token_ids], device=self.device).repeat(len(frames_B), 1)
            with torch.inference_mode():
                out = self.model(
                    pixel_values=pixels,
                    pixel_mask=pixel_mask,
                    input_ids=ids,
                    token_type_ids=torch.zeros_like(ids),
                    attention_mask=torch.ones_like(ids),
                )
            probs_B = out.logits.float().sigmoid().cpu().numpy()
            boxes_B = out.pred_boxes.float().cpu().numpy()
            if not (np.isfinite(probs_B).all() and np.isfinite(boxes_B).all()):
                raise ConfigError(
                    f"{_KEY}: its numbers overflow in {self.dtype}; set grounding.dtype=float32 or bfloat16"
                )
            for found, probs, boxes in zip(found_B, probs_B, boxes_B, strict=True):
                for query, phrase, score in name_boxes(probs, prompt.spans, self.box_threshold, self.text_threshold):
                    box = _to_pixels(boxes[query], width, height)
                    found.append(Detection(prompt.names[phrase], box, score))
        return [suppress([one for one in found if _is_visible(one.box_xyxy_px)], self.nms_iou) for found in found_B]


def _to_pixels(box_cxcywh: np.ndarray, width: int, height: int) -> Box:
    """The model's box (centre and size, 0-1) in pixels of the frame, cut to it."""
    cx, cy, w, h = (float(value) for value in box_cxcywh)
    x1, x2 = (min(max((cx + side * w / 2) * width, 0.0), float(width)) for side in (-1, 1))
    y1, y2 = (min(max((cy + side * h / 2) * height, 0.0), float(height)) for side in (-1, 1))
    return x1, y1, x2, y2


def _is_visible(box: Box) -> bool:
    """Whether a box is a pixel wide and high at least: a sliver at the edge would round to none."""
    return box[2] - box[0] >= 1.0 and box[3] - box[1] >= 1.0
