"""Configuration of ``ravst annotate``. Defaults are the paper's (R-AVST, arXiv 2511.16901) where it states one."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from ravst_ray.config.base import StrictModel


class InputConfig(StrictModel):
    """Where the videos and their event labels are."""

    annotations: str = Field(description="event labels, a JSON file in UnAV-100's format")
    videos: str = Field(description="folder with {video_id}.mp4 (or .mkv, .webm, .avi, .mov)")
    subsets: list[str] | None = Field(None, description="only videos of these subsets (train, validation, test)")
    limit: int | None = Field(None, ge=1, description="only the first so many videos, for a trial run")


class FilterConfig(StrictModel):
    """Step 1: which videos are worth annotating."""

    max_duration_s: float = Field(60.0, gt=0)
    short_s: float = Field(20.0, gt=0, description="videos up to this long are 'short'")
    medium_s: float = Field(40.0, gt=0, description="… up to this long 'medium', longer ones 'long'")
    max_events: int = Field(3, ge=1)
    min_event_share: float = Field(0.08, ge=0, le=1, description="union of the events / duration")
    balance: bool = Field(False, description="keep equally many videos of 1, 2 and 3 events")


class DecodeConfig(StrictModel):
    """Reading of sampled frames and of the sound level."""

    backend: Literal["decord", "pyav"] = "decord"
    step_s: float = Field(1.0, gt=0, description="frames at S, S + step, … up to E of each event")
    max_side_px: int = Field(1024, ge=32, description="larger frames are scaled down; boxes are scaled back")
    jpeg_quality: int = Field(95, ge=50, le=100, description="frames travel between actors as JPEG")
    deadline_s: float = Field(120.0, gt=0, description="a video that takes longer becomes an errors row")


class LLMConfig(StrictModel):
    """Step 2: the language model that reads captions."""

    backend: Literal["local", "openai"] = "local"
    model: str = Field("gpt-4o-mini", description="model name at the endpoint (backend openai)")
    model_dir: str | None = Field(None, description="directory for the local server, or smollm2: the bundled model")
    base_url: str | None = Field(None, description="endpoint; default $OPENAI_BASE_URL, then the OpenAI service")
    concurrency: int = Field(8, ge=1)
    timeout_s: float = Field(60.0, gt=0)
    max_retries: int = Field(5, ge=0, description="on 429, 5xx and broken connections, backing off exponentially")
    max_attempts: int = Field(3, ge=1, description="how often a malformed answer is asked for again")
    max_tokens: int = Field(256, ge=16)
    start_timeout_s: float = Field(300.0, gt=0, description="how long the local server may take to come up")
    max_model_len: int = Field(2048, ge=256, description="context of the local server")
    gpu_memory_utilization: float = Field(0.3, gt=0, le=1, description="share of the card for the local server")
    cache: str | None = Field(None, description="answers are kept here (SQLite); default OUT/llm_cache.sqlite")
    usd_per_million_prompt_tokens: float = Field(0.0, ge=0)
    usd_per_million_completion_tokens: float = Field(0.0, ge=0)
    write_captions: bool = Field(False, description="a vision-LLM captions events that have no caption, from frames")
    caption_frames: int = Field(4, ge=1)


class GroundingConfig(StrictModel):
    """Step 3: where the objects are. Model names are hub names or local directories."""

    detector: str = "IDEA-Research/grounding-dino-base"
    segmenter: str = "facebook/sam2.1-hiera-large"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    box_threshold: float = Field(0.4, ge=0, le=1)
    text_threshold: float = Field(0.3, ge=0, le=1)
    nms_iou: float = Field(0.6, gt=0, le=1)
    batch_frames: int = Field(8, ge=1, description="frames per detector forward")
    detect_every: int = Field(2, ge=1, description="frames between two detections")
    match_iou: float = Field(0.5, ge=0, le=1, description="mask IoU from which a detection is an existing track")
    keep_score: float = Field(0.5, ge=0, le=1, description="an undetected track lives on while its mask is this sure")
    max_missed: int = Field(4, ge=1, description="detections in a row that a track may miss before it is let go")
    chunk_frames: int = Field(64, ge=2, description="frames that are in memory at once")
    masks: bool = Field(False, description="keep masks (COCO RLE) beside the boxes")


class QualityConfig(StrictModel):
    """Step 5: what makes an annotation suspect or rejected."""

    max_jump: float = Field(0.5, gt=0, description="centre moved by this share of the diagonal in one step: jump")
    min_area_share: float = Field(0.0005, ge=0, description="median box smaller than this share of the picture: tiny")
    max_area_share: float = Field(0.95, gt=0, le=1, description="median box larger than this: full frame")
    min_score: float = Field(0.45, ge=0, le=1, description="mean score below this: low score")
    silence_db: float = Field(-60.0, description="sound below this level during the whole event: silent")
    overrun_s: float = Field(0.5, ge=0, description="how far an event may reach beyond the video")


class SplitConfig(StrictModel):
    """Train and test, by a hash of the seed and the video id."""

    test_share: float = Field(0.2, ge=0, le=1)


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
    output: str
    seed: int = 0
    filter: FilterConfig = FilterConfig()
    decode: DecodeConfig = DecodeConfig()
    llm: LLMConfig = LLMConfig()
    grounding: GroundingConfig = GroundingConfig()
    quality: QualityConfig = QualityConfig()
    split: SplitConfig = SplitConfig()
    actors: ActorsConfig = ActorsConfig()
    report_videos: int = Field(8, ge=0, description="sample videos shown in the report")
