"""Configuration of ``ravst annotate``. Defaults are the paper's (R-AVST, arXiv 2511.16901) where it states one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from ravst_ray.config.base import ClusterConfig, Place, StrictModel
from ravst_ray.records import Status


class InputConfig(StrictModel):
    """Where the videos and their event labels are."""

    annotations: Place = Field(description="event labels, a JSON file in UnAV-100's format")
    videos: Place = Field(description="folder with {video_id}.mp4 (or another ending that videos have)")
    subsets: list[str] | None = Field(None, description="only videos of these subsets (train, validation, test)")
    limit: int | None = Field(None, ge=1, description="only the first so many videos, for a trial run")


class FilterConfig(StrictModel):
    """Step 1: which videos are worth annotating."""

    max_duration_s: float = Field(60.0, gt=0)
    short_s: float = Field(20.0, gt=0, description="videos up to this long are 'short'")
    medium_s: float = Field(40.0, gt=0, description="… up to this long 'medium', longer ones 'long'")
    max_events: int = Field(3, ge=1, description="videos with more are left out; what is counted says count")
    count: Literal["labels", "events"] = Field("labels", description="distinct labels (the paper's), or single events")
    min_event_share: float = Field(0.08, ge=0, le=1, description="union of the events / duration")
    merge_overlapping: bool = Field(False, description="make overlapping events of one label one (the paper doesn't)")
    events_per_video: Literal["all", "first"] | Annotated[int, Field(ge=1)] = Field(
        "all", description="which events are asked about: all, the first, or the first N by start"
    )
    balance: bool = Field(False, description="keep equally many videos of 1, 2 and 3 (as counted by count)")


class DecodeConfig(StrictModel):
    """Reading of sampled frames and of the sound level."""

    backend: Literal["auto", "decord", "pyav"] = Field(
        "auto",
        description="auto: decord for the files that it is proven right for, PyAV for all others; decord: those files "
        "alone; pyav: all by PyAV, faster from 720p on and newer (decord carries an FFmpeg of 2020)",
    )
    step_s: float = Field(
        1.0, gt=0, description="boxes are given at S, S + step, … up to E of each event; whole tenths of a second"
    )
    max_side_px: int = Field(1024, ge=32, description="larger frames are scaled down; boxes are scaled back")
    max_pixels: int = Field(7680 * 4320, ge=1, description="width x height; larger videos become errors rows")
    jpeg_quality: int = Field(95, ge=50, le=100, description="frames travel between actors as JPEG")
    deadline_s: float = Field(120.0, gt=0, description="a video that takes longer becomes an errors row")

    @field_validator("step_s")
    @classmethod
    def _whole_tenths(cls, value: float) -> float:
        if abs(value * 10 - round(value * 10)) > 1e-6:
            raise ValueError(f"{value:g} is no whole number of tenths of a second, to which answers tell times")
        return value


class LLMConfig(StrictModel):
    """Step 2: the language model that reads captions."""

    backend: Literal["local", "openai"] = "local"
    model: str = Field("gpt-4o-mini", description="model name at the endpoint (backend openai)")
    model_dir: Place | None = Field(None, description="directory for the local server, or smollm2: the bundled model")
    base_url: str | None = Field(None, description="endpoint; default $OPENAI_BASE_URL, then the OpenAI service")
    concurrency: int = Field(8, ge=1)
    timeout_s: float = Field(60.0, gt=0)
    max_retries: int = Field(5, ge=0, description="on 429, 5xx and broken connections, backing off exponentially")
    max_attempts: int = Field(3, ge=1, description="how often a malformed answer is asked for again")
    max_tokens: int = Field(256, ge=16)
    start_timeout_s: float = Field(300.0, gt=0, description="how long the local server may take to come up")
    max_model_len: int = Field(2048, ge=256, description="context of the local server")
    gpu_memory_utilization: float = Field(0.3, gt=0, le=1, description="share of the card for the local server")
    cache: Place | None = Field(None, description="answers are kept here (SQLite); default OUT/llm_cache.sqlite")
    usd_per_million_prompt_tokens: float = Field(0.0, ge=0)
    usd_per_million_completion_tokens: float = Field(0.0, ge=0)
    write_captions: bool = Field(False, description="a vision-LLM captions events that have no caption, from frames")
    caption_frames: int = Field(4, ge=1)


class GroundingConfig(StrictModel):
    """Step 3: where the objects are. Model names are hub names or local directories."""

    detector: Place = "IDEA-Research/grounding-dino-base"
    segmenter: Place = "facebook/sam2.1-hiera-large"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: float32 on a CPU; on a GPU float16 for the detector, bfloat16 for the segmenter"
    )
    box_threshold: float = Field(0.4, ge=0, le=1)
    text_threshold: float = Field(0.3, ge=0, le=1)
    nms_iou: float = Field(0.6, gt=0, le=1)
    batch_frames: int = Field(8, ge=1, description="frames per detector forward")
    detect_every: int = Field(2, ge=1, description="frames between two detections")
    match_iou: float = Field(0.5, ge=0, le=1, description="mask IoU from which a detection is an existing track")
    keep_score: float = Field(0.8, ge=0, le=1, description="an undetected track lives on while its mask is this sure")
    max_missed: int = Field(4, ge=1, description="detections in a row that a track may miss before it is let go")
    chunk_frames: int = Field(64, ge=2, description="frames that are in memory at once")
    track_step_s: float | None = Field(
        None, gt=0, description="seconds between tracked frames; a whole part of decode.step_s, which is the default"
    )
    max_instances: int = Field(13, ge=1, description="more than so many of one name at once are a crowd")
    cut_score: float = Field(0.3, ge=0, le=1, description="two frames as unlike as this have a cut between them")
    reidentify: float | None = Field(
        None, ge=0, le=1, description="likeness of colours from which a track goes on across a cut; null: never"
    )
    masks: bool = Field(False, description="keep masks (COCO RLE) beside the boxes")


class QuestionsConfig(StrictModel):
    """Step 4: what is asked. A question that can't be answered without doubt is left out and counted."""

    when: Literal["event", "visible"] = Field(
        "event", description="<when> is the event (the paper's), or from the first to the last time it is seen in it"
    )
    repeated: Literal["ordinal", "window", "skip"] = Field(
        "ordinal",
        description="a name that sounds several times: ask for the first, second … time, or within a stretch of time "
        "that holds only the one meant, or don't ask",
    )
    max_answer_tokens: int = Field(
        8192, ge=64, description="longer answers aren't asked for; a digit, a word and a sign are a token each"
    )
    per_event: dict[str, Annotated[float, Field(ge=0)]] | None = Field(
        None, description="how many questions of each task an event gets on average; null: all"
    )


class QualityConfig(StrictModel):
    """Step 5: what makes an annotation suspect or rejected."""

    max_jump: float = Field(0.5, gt=0, description="centre moved by this share of the diagonal in one step: jump")
    min_area_share: float = Field(0.0005, ge=0, description="median box smaller than this share of the picture: tiny")
    max_area_share: float = Field(0.95, gt=0, le=1, description="median box larger than this: full frame")
    min_score: float = Field(0.5, ge=0, le=1, description="mean score of the detections below this: low score")
    suspect_visible_share: float = Field(0.5, ge=0, le=1, description="a source seen in less of its event: suspect")
    reject_visible_share: float = Field(0.2, ge=0, le=1, description="… in less than this: rejected")
    silence_db: float = Field(-60.0, description="sound below this level is silence")
    min_sound_s: float = Field(0.3, gt=0, description="sound shorter than this (or half the event) is a click")
    sound_margin_db: float = Field(6.0, ge=0, description="sound less than this above the track's own floor: faint")
    overrun_s: float = Field(0.5, ge=0, description="how far an event may reach beyond the video")
    skip: list[str] = Field([], description="checks that are not made, by name")


class SplitConfig(StrictModel):
    """Train and test, by a hash of the seed and the video id."""

    test_share: float = Field(0.2, ge=0, le=1)


class ExportConfig(StrictModel):
    """Which questions ``ravst_train_QA.json`` and ``ravst_test_QA.json`` hold; the tables hold all."""

    statuses: list[Status] = Field(["accepted"], min_length=1, description="accepted, suspect, rejected")


class PoolConfig(StrictModel):
    """An actor pool: it grows from ``min`` to ``max`` actors with the queue."""

    min: int = Field(1, ge=1)
    max: int = Field(1, ge=1, validate_default=True)
    num_cpus: float = Field(1.0, ge=0)
    num_gpus: float = Field(0.0, ge=0)

    @field_validator("max")
    @classmethod
    def _order(cls, value: int, info) -> int:
        if value < info.data.get("min", 1):
            raise ValueError("max is below min")
        return value


class ActorsConfig(StrictModel):
    """Who runs where."""

    decode: PoolConfig = PoolConfig()
    llm: PoolConfig = PoolConfig(num_cpus=0.5)
    ground: PoolConfig = PoolConfig()


class AnnotateConfig(StrictModel):
    """Everything that ``ravst annotate`` does."""

    input: InputConfig
    output: Place
    seed: int = 0
    filter: FilterConfig = FilterConfig()
    decode: DecodeConfig = DecodeConfig()
    llm: LLMConfig = LLMConfig()
    grounding: GroundingConfig = GroundingConfig()
    questions: QuestionsConfig = QuestionsConfig()
    quality: QualityConfig = QualityConfig()
    split: SplitConfig = SplitConfig()
    export: ExportConfig = ExportConfig()
    actors: ActorsConfig = ActorsConfig()
    cluster: ClusterConfig = ClusterConfig()
    report_videos: int = Field(8, ge=0, description="sample videos shown in the report")

    @model_validator(mode="after")
    def _steps_agree(self) -> AnnotateConfig:
        dense = self.grounding.track_step_s
        parts = self.decode.step_s / dense if dense else 1.0
        if parts < 1 - 1e-9 or abs(parts - round(parts)) > 1e-6:
            raise ValueError(
                f"grounding.track_step_s = {dense:g} is no whole part of decode.step_s = {self.decode.step_s:g}"
            )
        return self
