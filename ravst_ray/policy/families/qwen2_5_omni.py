"""Qwen2.5-Omni's thinker: it sees, hears, and answers in text. Talker and codec, which speak, are left alone.

Sound stands among the pictures in chunks of 2 s: ``<|vision_bos|><|audio_bos|>``, the pictures of the first 2 s, its
sound, those of the next, …, ``<|audio_eos|><|vision_eos|>``. A second has 25 tokens of sound and 25 positions in time.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ravst_ray.errors import StepError
from ravst_ray.media.clips import SAMPLE_RATE_HZ, Clip
from ravst_ray.policy.families.chat import chat_text, ids_of, ids_to_ban
from ravst_ray.policy.families.protocols import LINEAR, BoxSpace, Shape, Tensors
from ravst_ray.policy.families.vl import without_weights

FRAME_MULTIPLE = 28
TEMPORAL_PATCH = 2
PER_SECOND = 25  # positions, and tokens of sound
PER_CHUNK = 50
PROCESSOR_KWARGS: dict[str, Any] = {
    # Frames come in their final size: the processor must not resize them. Its bounds only widen.
    "size": {"shortest_edge": FRAME_MULTIPLE**2, "longest_edge": 2**24},
    "cap_pixels_per_frame": False,
}
_HOP = 160  # samples of one column of the spectrogram
# The last columns see silence behind the sound. The extractor would fill up to 300 s with it, to the same effect, in 90
# times the time.
_BEHIND = 3 * _HOP
_VIDEO, _SOUND, _SOUND_START, _SOUND_END = "<|VIDEO|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"
# For a directory whose template belongs to the processor alone (chat_template.json), which tokenizers don't read.
_CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    "{% if messages[0].content is string %}{{ messages[0].content }}{% else %}"
    "<|vision_bos|><|VIDEO|><|vision_eos|>{{ messages[0].content[-1].text }}{% endif %}"
    "<|im_end|>\n<|im_start|>assistant{{ '\\n' }}"  # Jinja takes a line break at the end away
)
_MEDIA = (_VIDEO, _SOUND, _SOUND_START, _SOUND_END, "<|IMAGE|>", "<|vision_bos|>", "<|vision_eos|>", "<|vision_pad|>")


def sound_tokens(samples: int) -> int:
    """Tokens of so many samples: 25 a second, nearly.

    >>> sound_tokens(16000), sound_tokens(10 * 16000), sound_tokens(100)
    (25, 250, 0)
    """
    columns = -(-samples // _HOP)
    return max(0, ((columns - 1) // 2 - 1) // 2 + 1)


def seconds_per_grid(step_s: float) -> float:
    """Seconds of two frames that are ``step_s`` apart, to the eight bits that bfloat16 has.

    vLLM has them in the precision that its model computes in: with more bits positions would depend on it.
    """
    fraction, exponent = math.frexp(TEMPORAL_PATCH * step_s)
    return math.ldexp(round(fraction * 256), exponent - 8)


class Qwen25Omni:
    """See :class:`~ravst_ray.policy.families.protocols.Family`. A clip without sound goes as well, and text alone."""

    name = "Qwen2.5-Omni"
    # The second is of the thinker in memory; of a checkpoint that is a thinker alone, vLLM is kept away (below).
    model_types: tuple[str, ...] = ("qwen2_5_omni", "qwen2_5_omni_thinker")
    frame_multiple = FRAME_MULTIPLE
    hears = True
    # Two frames have one place in time: beyond 1 s a chunk of sound may be without pictures, and what vLLM then makes
    # of tokens and positions no longer fits together.
    max_step_s = 1.0
    box_space: BoxSpace = "frame"
    adapter_targets = LINEAR

    def prompt_ids(self, tokenizer: Any, text: str, shape: Shape | None) -> list[int]:
        """See :meth:`Family.prompt_ids`."""
        if shape is None:
            return ids_of(tokenizer, chat_text(tokenizer, text, template=_CHAT))
        ids = ids_of(tokenizer, chat_text(tokenizer, text, _VIDEO, template=_CHAT))
        video, sound, start, end = (
            tokenizer.convert_tokens_to_ids(token) for token in (_VIDEO, _SOUND, _SOUND_START, _SOUND_END)
        )
        cells = shape.height // FRAME_MULTIPLE * (shape.width // FRAME_MULTIPLE)
        block: list[int] = []
        for times, heard in _chunks(shape):
            block += [video] * (len(times) * cells) + [sound] * len(heard)
        if shape.samples is not None:
            block = [start, *block, end]
        place = ids.index(video)
        return [*ids[:place], *block, *ids[place + 1 :]]

    def positions(self, prompt_ids: Sequence[int], shape: Shape | None, config: Any) -> np.ndarray:
        """See :meth:`Family.positions`.

        As vLLM counts: a video with sound starts at the place of ``<|audio_bos|>`` before it (transformers: one later),
        so its positions stand one token too early, and ``<|audio_eos|>`` and what precedes it count as text.
        """
        ids = np.asarray(prompt_ids)
        media = np.flatnonzero((ids == config.video_token_id) | (ids == config.audio_token_id))
        if shape is None:
            if len(media):
                raise ValueError(f"{len(media)} placeholders in a prompt without a clip")
            return np.broadcast_to(np.arange(len(ids)), (3, len(ids))).astype(np.int64)
        rows, columns = shape.height // FRAME_MULTIPLE, shape.width // FRAME_MULTIPLE
        made = []
        for times, heard in _chunks(shape):
            grid = np.indices((len(times), rows, columns)).reshape(3, -1)
            grid[0] = np.repeat(times, rows * columns)
            made += [grid, np.broadcast_to(heard, (3, len(heard)))]
        block = np.concatenate(made, axis=1)
        count = block.shape[1]
        if len(media) != count or media[-1] - media[0] + 1 != count:
            raise ValueError(f"{len(media)} placeholders in the prompt, {shape} has {count}")
        start = int(media[0]) - (shape.samples is not None)
        before = np.broadcast_to(np.arange(start), (3, start))
        rest = len(ids) - start - count
        after = np.broadcast_to(np.arange(rest), (3, rest)) + start + block.max() + 1
        return np.concatenate([before, block + start, after], axis=1).astype(np.int64)

    def banned_ids(self, tokenizer: Any) -> list[int]:
        """See :meth:`Family.banned_ids`."""
        return ids_to_ban(tokenizer, _MEDIA)

    def engine_arguments(self) -> dict[str, Any]:
        """See :meth:`Family.engine_arguments`."""
        return {
            "limit_mm_per_prompt": {"video": 1, "image": 0, "audio": 1},
            "mm_processor_kwargs": PROCESSOR_KWARGS,
            # With this cache vLLM refuses a clip of which it has pictures or sound no longer, and the other still.
            "mm_processor_cache_gb": 0,
            "hf_overrides": whole,
        }

    def request(self, tokenizer: Any, text: str, clip: Clip | None) -> dict[str, Any]:
        """See :meth:`Family.request`."""
        if clip is None:
            return {"prompt": chat_text(tokenizer, text, template=_CHAT)}
        _check_step(clip.step_s, clip.sound is not None)
        metadata = {**_metadata(clip), "do_sample_frames": False}
        seconds = seconds_per_grid(clip.step_s)
        data: dict[str, Any] = {"video": [(clip.frames, metadata)]}
        options: dict[str, Any] = {"fps": TEMPORAL_PATCH / seconds}  # gives positions in time; metadata's doesn't
        if clip.sound is not None:
            data["audio"] = [_whole_columns(clip.sound)]
            options |= {"use_audio_in_video": True, "second_per_grid_ts": [seconds]}  # gives the order of tokens
            options["audio_kwargs"] = {"max_length": len(data["audio"][0]) + _BEHIND}
        prompt = chat_text(tokenizer, text, _VIDEO, template=_CHAT)
        request: dict[str, Any] = {"prompt": prompt, "multi_modal_data": data, "mm_processor_kwargs": options}
        if clip.sound is not None:
            # Of two media at one place vLLM's prefix cache looks at the first alone: the same pictures with another
            # sound would get what it has computed of the old one. So each is named after both.
            both = _digest(clip)
            request["multi_modal_uuids"] = {"video": [f"{both}-video"], "audio": [f"{both}-audio"]}
        return request

    def learner(self) -> OmniLearner:
        """See :meth:`Family.learner`."""
        return OmniLearner()


def whole(config: Any) -> Any:
    """The configuration of a checkpoint as vLLM reads it, unchanged.

    Raises:
        ValueError: it is a thinker's that was saved by itself; vLLM would run it by a fallback that can't place sound.
    """
    if config.model_type == "qwen2_5_omni_thinker":
        hint = "save it as ravst does after training, or as the hub's: config.json of Qwen2_5OmniConfig, thinker.…"
        raise ValueError(f"a thinker alone, not a whole Qwen2.5-Omni; {hint}")
    return config


class OmniLearner:
    """See :class:`~ravst_ray.policy.families.protocols.LearnerSide`."""

    sharded_layers: tuple[str, ...] = (
        "Qwen2_5OmniDecoderLayer",
        "Qwen2_5OmniVisionBlock",
        "Qwen2_5OmniAudioEncoderLayer",
    )
    towers: tuple[str, ...] = ("visual", "audio_tower")
    adapter_scope = r"model\.layers\..*\.({targets})"

    def load(self, source: str, dtype: Any) -> Any:
        """The thinker of a whole Omni's checkpoint; weights of the rest are not read."""
        from transformers import Qwen2_5OmniThinkerForConditionalGeneration

        return Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(source, dtype=dtype)

    def empty(self, source: str, dtype: Any) -> Any:
        """See :meth:`LearnerSide.empty`."""
        from transformers import Qwen2_5OmniThinkerForConditionalGeneration

        return without_weights(Qwen2_5OmniThinkerForConditionalGeneration, source, dtype)

    def save(self, model: Any, state: Tensors, folder: Any) -> None:
        """See :meth:`LearnerSide.save`; a tied output layer is left out."""
        from huggingface_hub import save_torch_state_dict
        from transformers import Qwen2_5OmniConfig

        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        tied = model.config.tie_word_embeddings
        weights = {f"thinker.{name}": value for name, value in state.items()}
        if tied:
            weights.pop("thinker.lm_head.weight", None)
        save_torch_state_dict(weights, target, metadata={"format": "pt"})
        config = Qwen2_5OmniConfig(thinker_config=model.config.to_dict(), enable_audio_output=False)
        config.architectures = ["Qwen2_5OmniForConditionalGeneration"]
        config.dtype = next(iter(weights.values())).dtype
        config.tie_word_embeddings = config.thinker_config.text_config.tie_word_embeddings = tied  # vLLM reads this one
        config.save_pretrained(target)
        model.generation_config.save_pretrained(target)

    def encode(self, processor: Any, clip: Clip) -> Tensors:
        """Patches ``pixels [P, D]`` and ``grid_thw [3]``; of sound ``mel [128, M]``."""
        made = processor.video_processor(
            videos=[clip.frames],
            video_metadata=[_metadata(clip)],
            do_sample_frames=False,
            return_tensors="pt",
            **PROCESSOR_KWARGS,
        )
        encoded = {"pixels": made["pixel_values_videos"], "grid_thw": made["video_grid_thw"][0]}
        if clip.sound is not None:
            sound = _whole_columns(clip.sound)
            heard = processor.feature_extractor(
                [np.pad(sound, (0, _BEHIND))],
                sampling_rate=SAMPLE_RATE_HZ,
                truncation=False,
                padding="longest",
                return_tensors="pt",
            )
            encoded["mel"] = heard["input_features"][0][:, : len(sound) // _HOP]
        return encoded

    def features(self, model: Any, inputs: Sequence[Tensors]) -> list[Tensors]:
        """Of each clip ``video [n, D]`` and, where it has sound, ``audio [m, D]``."""
        import torch

        device = next(model.visual.parameters()).device
        given = {key: value.to(device) for key, value in _tower_inputs(inputs).items()}
        videos = model.get_video_features(
            given["pixel_values_videos"], given["video_grid_thw"], return_dict=True
        ).pooler_output
        made: list[dict[str, Any]] = [{"video": video} for video in videos]
        heard = [place for place, one in enumerate(inputs) if "mel" in one]
        if heard:
            mask = given["feature_attention_mask"]
            sounds = model.get_audio_features(given["input_features"], mask, return_dict=True).last_hidden_state
            lengths = [sound_tokens(int(columns) * _HOP) for columns in mask.sum(1)]
            for place, sound in zip(heard, torch.split(sounds, lengths), strict=True):
                made[place]["audio"] = sound
        return list(made)

    def call(self, model: Any, bare: Any, batch: Tensors, seen: Sequence[Tensors], raw: Sequence[Tensors] = ()) -> Any:
        """See :meth:`LearnerSide.call`; ``logits`` has all columns.

        The thinker takes features of video, but none of sound: they go in where spectrograms do, and its method that
        makes features of these hands them on meanwhile. It embeds the tokens itself, when its wrappers have brought the
        weights together.
        """
        import torch

        given = {key: value for key, value in batch.items() if key != "logits_to_keep"}  # the thinker knows none
        if raw:
            device = batch["input_ids"].device
            given |= {key: value.to(device) for key, value in _tower_inputs(raw).items()}
        if seen:
            given["mm_encoder_outputs"] = {"video": SimpleNamespace(pooler_output=[one["video"] for one in seen])}
            sounds = [one["audio"] for one in seen if "audio" in one]
            if sounds:
                given["input_features"] = torch.cat(sounds)
        if not seen:
            return model(**{"use_cache": False, **given})
        bare.get_audio_features = _as_given
        try:
            return model(**{"use_cache": False, **given})
        finally:
            del bare.get_audio_features

    def wire_name(self, name: str) -> str | None:
        """See :meth:`LearnerSide.wire_name`."""
        return f"thinker.{name}"


def _chunks(shape: Shape) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions in time of the pictures and of the sound in each chunk, from the block's start on.

    Without sound all pictures are one chunk. The last one has what is left of the sound.
    """
    grids = -(-shape.frames // TEMPORAL_PATCH)
    # To float32 and back, as the seconds come out of vLLM's tensor.
    times = (np.arange(grids) * (float(np.float32(seconds_per_grid(shape.step_s))) * PER_SECOND)).astype(np.int64)
    if shape.samples is None:
        yield times, np.arange(0)
        return
    _check_step(shape.step_s, True)
    count = sound_tokens(shape.samples)
    last = int(times[-1]) // PER_CHUNK
    for chunk in range(last + 1):
        end = count if chunk == last else min((chunk + 1) * PER_CHUNK, count)
        yield times[times // PER_CHUNK == chunk], np.arange(min(chunk * PER_CHUNK, count), end)


def _check_step(step_s: float, heard: bool) -> None:
    if heard and step_s > Qwen25Omni.max_step_s:
        message = f"pictures {step_s:g} s apart, with sound Qwen2.5-Omni takes at most {Qwen25Omni.max_step_s:g} s"
        raise StepError("step_too_long", message)


def _metadata(clip: Clip) -> dict[str, Any]:
    return {
        "fps": TEMPORAL_PATCH / seconds_per_grid(clip.step_s),
        "duration": len(clip.frames) * clip.step_s,
        "total_num_frames": len(clip.frames),
        "frames_indices": list(range(len(clip.frames))),
        "video_backend": "ravst",
    }


def _digest(clip: Clip) -> str:
    """Of pictures and sound together."""
    digest = hashlib.blake2b(repr((clip.frames.shape, clip.step_s)).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(clip.frames).data)
    digest.update(np.ascontiguousarray(clip.sound).data)
    return digest.hexdigest()


def _whole_columns(sound: np.ndarray) -> np.ndarray:
    """Sound, silence behind it up to a whole number of the spectrogram's columns.

    Without, the extractor makes one column more or less of the same sound, as it pads it or not.
    """
    return np.pad(sound, (0, -len(sound) % _HOP))


def _tower_inputs(inputs: Sequence[Tensors]) -> dict[str, Any]:
    """Encoded clips as the model's forward names them."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    given = {
        "pixel_values_videos": torch.cat([one["pixels"] for one in inputs]),
        "video_grid_thw": torch.stack([one["grid_thw"] for one in inputs]),
    }
    mels = [one["mel"].T for one in inputs if "mel" in one]
    if mels:
        given["input_features"] = pad_sequence(mels, batch_first=True).transpose(1, 2)
        lengths = torch.tensor([len(mel) for mel in mels])
        given["feature_attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    return given


def _as_given(input_features: Any, *_: Any, **__: Any) -> Any:
    return SimpleNamespace(last_hidden_state=input_features)
