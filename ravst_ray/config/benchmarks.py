"""Configuration of ``ravst evaluate --benchmark``."""

from __future__ import annotations

from pydantic import Field

from ravst_ray.config.base import StrictModel


class JudgeConfig(StrictModel):
    """A language model behind an OpenAI-compatible endpoint that marks free answers; its key is $OPENAI_API_KEY."""

    model: str = Field("Qwen/Qwen2.5-72B-Instruct", description="its name at the endpoint; the default is V-STaR's")
    base_url: str | None = Field(None, description="endpoint; default $OPENAI_BASE_URL, then the OpenAI service")
    concurrency: int = Field(8, ge=1)
    timeout_s: float = Field(120.0, gt=0)
    max_retries: int = Field(5, ge=0)
    max_tokens: int = Field(512, ge=1)


class BenchmarkConfig(StrictModel):
    """How answers to a benchmark are marked, where its rules leave a choice."""

    judge: JudgeConfig | None = Field(
        None, description="marks free answers (V-STaR's 'what'); null: they must agree up to case, marks and articles"
    )
