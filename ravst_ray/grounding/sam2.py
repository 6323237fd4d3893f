"""SAM 2 (arXiv 2408.00714) as a segmenter that follows objects through a stream of frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ravst_ray.errors import ConfigError
from ravst_ray.grounding.protocols import Candidate, ObjectMask
from ravst_ray.models.pretrained import loading, memory_guard, model_source, resolve_device, resolve_dtype
from ravst_ray.records import Box

if TYPE_CHECKING:
    import torch

_KEY = "grounding.segmenter"
_KEPT_PROMPTS = 4  # newest prompted frames that an object is remembered by; more cost time and don't help


class Sam2Video:
    """A :class:`~ravst_ray.policy.protocols.Segmenter` over any SAM 2 video model that transformers can load.

    Args:
        model: hub name (``facebook/sam2.1-hiera-large``) or local directory.
        device: ``auto``, ``cpu`` or ``cuda``.
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        ConfigError: the model can't be found or is of another kind, or the device isn't there.
    """

    def __init__(self, model: str, device: str = "auto", dtype: str = "auto"):
        import torch
        from transformers import AutoConfig, Sam2VideoModel, Sam2VideoProcessor

        self.device = resolve_device(device)
        self.dtype = resolve_dtype(dtype, self.device)
        source = model_source(model, _KEY)
        with loading(model, _KEY):
            kind = AutoConfig.from_pretrained(source).model_type
            if not kind.startswith("sam2"):  # transformers would load it all the same, with random weights
                raise ConfigError(f"{_KEY}: {model} is a {kind} model, no SAM 2")
            self.processor = Sam2VideoProcessor.from_pretrained(source)
            self.model = Sam2VideoModel.from_pretrained(source, dtype=self.dtype).eval()
        torch.nn.Module.to(self.model, self.device)

    def memory(self) -> Sam2Memory:
        """A fresh memory."""
        return Sam2Memory(self)


class Sam2Memory:
    """A :class:`~ravst_ray.policy.protocols.MaskMemory`: one transformers session per object, frames streamed.

    A session of transformers never forgets a frame or an object, and takes objects one after the other anyway. So each
    object gets a session of its own, which can be dropped; all of them share the features of the current frame, which
    are computed once; and after each frame what the model can't look back at is removed. Memory therefore doesn't
    grow with the video: 17 MiB per object of the large model in float32, 11 MiB in bfloat16.
    """

    def __init__(self, segmenter: Sam2Video):
        self._model = segmenter.model
        self._processor = segmenter.processor
        self._dtype = segmenter.dtype
        self._device = segmenter.device
        self._features = self._processor.init_video_session(inference_device=self._device, dtype=self._dtype).cache
        self._sessions: dict[int, Any] = {}
        self._frame_index = -1
        self._pixels: torch.Tensor | None = None
        self._size_hw = (0, 0)

    def advance(self, frame: np.ndarray) -> dict[int, ObjectMask]:
        """Take the next frame; where each followed object is in it.

        Raises:
            StepError: ``out_of_memory``.
        """
        with memory_guard("the segmenter"):
            self._frame_index += 1
            self._size_hw = (int(frame.shape[0]), int(frame.shape[1]))
            self._features.clear_all()
            inputs = self._processor(images=frame, device=self._device, return_tensors="pt")
            self._pixels = inputs.pixel_values[0]
            return {object_id: self._look(session) for object_id, session in self._sessions.items()}

    def segment(self, boxes_N: Sequence[Box]) -> list[Candidate]:
        """The masks of boxes in the current frame, each from a session that knows nothing of the past.

        Raises:
            StepError: ``out_of_memory``.
        """
        candidates = []
        with memory_guard("the segmenter"):
            for box in boxes_N:
                session = self._processor.init_video_session(inference_device=self._device, dtype=self._dtype)
                session.cache = self._features
                self._processor.add_inputs_to_inference_session(
                    session, self._frame_index, [0], input_boxes=[[list(box)]], original_size=self._size_hw
                )
                candidates.append(Candidate(self._look(session), session))
        return candidates

    def adopt(self, object_id: int, candidate: Candidate) -> None:
        """Follow a candidate; a known object takes over the candidate's view of the current frame."""
        known = self._sessions.get(object_id)
        if known is None:
            self._sessions[object_id] = candidate.state
            return
        outputs, fresh = known.output_dict_per_obj[0], candidate.state.output_dict_per_obj[0]
        outputs["non_cond_frame_outputs"].pop(self._frame_index, None)
        outputs["cond_frame_outputs"].update(fresh["cond_frame_outputs"])
        self._prune(known)

    def forget(self, object_id: int) -> None:
        """Stop following an object."""
        self._sessions.pop(object_id, None)

    def _look(self, session: Any) -> ObjectMask:
        """Run the model on the current frame for the one object of a session."""
        import torch

        with torch.inference_mode():
            out = self._model(session, frame=self._pixels, frame_idx=self._frame_index)
            logits = out.pred_masks.float()
            mask = self._processor.post_process_masks([logits], original_sizes=[list(self._size_hw)])[0]
            probs = logits.sigmoid()
            inside = logits > 0
            sure = probs[inside].mean() if inside.any() else probs.new_zeros(())
            score = out.object_score_logits.float().sigmoid().flatten()[0] * sure
        self._prune(session)
        return ObjectMask(mask[0, 0].cpu().numpy().astype(bool), float(score))

    def _prune(self, session: Any) -> None:
        """Remove what the model will not look at again: pixels, full-size masks, frames past its memory."""
        config = self._model.config
        outputs = session.output_dict_per_obj[0]
        prompted, followed = outputs["cond_frame_outputs"], outputs["non_cond_frame_outputs"]
        for index in sorted(prompted)[:-_KEPT_PROMPTS]:
            del prompted[index]
        oldest = self._frame_index - config.max_object_pointers_in_encoder
        for index in [index for index in followed if index <= oldest]:
            del followed[index]
        for index, output in (*prompted.items(), *followed.items()):
            output.pop("high_res_masks", None)
            output.pop("pred_masks", None)
            if index in followed and index <= self._frame_index - config.num_maskmem:
                output.pop("maskmem_features", None)
                output.pop("maskmem_pos_enc", None)
        session.processed_frames = {}
        session.frames_tracked_per_obj[0].clear()
