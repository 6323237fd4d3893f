"""Step 2: a language model names the objects of each event's caption and says which of them sound.

An event whose sound nothing visible makes, or without anything to read, is set aside with its reason; the others of
its video live on. Only what may pass, or an answer that is no answer, costs the whole video.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ravst_ray.annotate.caption_frames import spread
from ravst_ray.annotate.step import Step, failed
from ravst_ray.annotate.texts import (
    ADAPTED,
    NO_MODEL,
    NO_OBJECTS,
    Reading,
    events_of,
    known_reading,
    lacks_caption,
    needs_model,
    reading_of,
    text_of,
    with_readings,
)
from ravst_ray.config.annotate import LLMConfig
from ravst_ray.core.prompts import (
    Message,
    candidate_names,
    caption_messages,
    frames_messages,
    objects_schema,
)
from ravst_ray.core.replies import MalformedAnswer, spoken
from ravst_ray.errors import AbortError, StepError
from ravst_ray.language.cache import LLMCache, cache_key
from ravst_ray.language.chat import ChatClient, Trial, endpoint_of
from ravst_ray.language.local import MODEL, LocalLLM, check_local, model_directory, model_fingerprint
from ravst_ray.language.protocols import ChatAnswer, ChatModel
from ravst_ray.records import Event, EventAnnotation, Frames, VideoItem

_RETRY_TEMPERATURE = 0.7
_PASSING = ("llm_unreachable", "llm_rate_limited")
PROMPT_VERSION = cache_key(caption_messages(""), objects_schema(), frames_messages("", ()))[:12]


class AnalyzeCaptions(Step):
    """Names the objects of every event from its caption, or from its label where it has none.

    Events that are context only are read as well: what sounds in them counts where they meet others. With
    ``llm.write_captions`` an event without a caption gets one first, from those of the item's frames that lie in it.

    A caption is asked about once a run, however many events share it, and once for all with a cache. What was spent
    is added to ``stats`` of the video that caused it: ``tokens/prompt``, ``tokens/completion``, ``llm_requests``,
    ``llm_cache_hits``, ``llm_names_dropped`` (names that the caption doesn't hold), ``usd``, and ``llm_adapted/…``, the
    requests that the endpoint wanted otherwise, by what was adapted.

    Args:
        config: limits, prices and what is wanted.
        chat: the model.
        cache: answers of earlier runs.
        identity: names the model in the cache and the provenance.
        constrain: let the model choose among the caption's own words; helps small models, and costs an endpoint the
            compilation of one grammar per caption.
        server: the local server behind ``chat``, which lives as long as this step.
    """

    stage = "captions"

    def __init__(
        self,
        config: LLMConfig,
        chat: ChatModel,
        cache: LLMCache | None = None,
        *,
        identity: str | None = None,
        constrain: bool | None = None,
        server: LocalLLM | None = None,
    ):
        self._config = config
        self._chat = chat
        self._cache = cache
        self._identity = identity or config.model
        self._constrain = config.backend == "local" if constrain is None else constrain
        self._server = server
        self._known: dict[str, asyncio.Task[Reading]] = {}
        self._trial = Trial()

    def process_batch(self, items: Sequence[VideoItem]) -> list[VideoItem | StepError]:
        """All videos at once: the model's concurrency is the only limit. A failed one keeps what was spent on it.

        A local server that dies is started anew, and what it did not answer is asked again.
        """
        self._start_server(items)
        done = self._answered(items)
        while any(map(_unanswered, done)) and self._server is not None and self._server.died():
            self._server.revive()
            self._go_to(self._server)
            lost = [
                replace(item, stats=said.stats) for item, said in zip(items, done, strict=True) if _unanswered(said)
            ]
            again = iter(self._answered(lost))
            done = [next(again) if _unanswered(said) else said for said in done]
        return list(done)

    def _answered(self, items: Sequence[VideoItem]) -> list[VideoItem]:
        return asyncio.run_coroutine_threadsafe(self._videos(items), self._loop).result()

    def close(self) -> None:
        """Stop the thread and the local server."""
        if "_loop" in vars(self):
            self._loop.call_soon_threadsafe(self._loop.stop)
            del self._loop
        if self._server is not None:
            self._server.stop()

    def _start_server(self, items: Sequence[VideoItem]) -> None:
        """Bring the local server up with the first caption that needs it: objects that are given never do."""
        if self._server is None or self._server.base_url or not isinstance(self._chat, ChatClient):
            return
        write = self._config.write_captions
        if any(needs_model(annotation.event, write) for item in items for annotation in events_of(item)):
            self._server.start()
            self._go_to(self._server)
            self._identity = model_fingerprint(model_directory(self._config))

    def _go_to(self, server: LocalLLM) -> None:
        assert isinstance(self._chat, ChatClient)
        self._chat.move_to(server.base_url)

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        """One event loop for all batches, so that connections and running questions outlive a batch."""
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, name=self.stage, daemon=True).start()
        return loop

    async def _videos(self, items: Sequence[VideoItem]) -> list[VideoItem]:
        tasks = [asyncio.ensure_future(self._video(item)) for item in items]
        try:
            return await asyncio.gather(*tasks)
        finally:  # an AbortError of one ends them all
            for task in tasks:
                task.cancel()

    async def _video(self, item: VideoItem) -> VideoItem:
        spent: Counter[str] = Counter()
        asked = [self._event(annotation, item.frames, spent) for annotation in events_of(item)]
        results = await asyncio.gather(*asked, return_exceptions=True)
        item = item.with_stats(**spent, usd=self._price(spent))
        for error in sorted((result for result in results if isinstance(result, BaseException)), key=_gravity):
            if isinstance(error, StepError):
                return failed(item, self.stage, error)
            raise error
        read = [result for result in results if isinstance(result, EventAnnotation)]
        known = all(known_reading(annotation.event) for annotation in read) and not spent
        llm = NO_MODEL if known else {"llm": self._identity, "llm_prompt": PROMPT_VERSION}
        return with_readings(item, read, **llm)

    async def _event(self, annotation: EventAnnotation, frames: Frames | None, spent: Counter[str]) -> EventAnnotation:
        event = annotation.event
        if self._config.write_captions and lacks_caption(event) and frames is not None:
            shown = spread(frames, event, self._config.caption_frames)
            if shown:
                event = replace(event, caption=await self._describe(event, shown, spent))
        reading = known_reading(event) or await self._read(text_of(event), spent)
        return reading.of(replace(annotation, event=event))

    async def _read(self, text: str, spent: Counter[str]) -> Reading:
        task = self._known.get(text)
        if task is None:
            task = self._known[text] = asyncio.ensure_future(self._analyze(text, spent))
        else:
            spent["llm_cache_hits"] += 1
        try:
            return await asyncio.shield(task)
        except StepError as error:
            if error.reason in _PASSING and self._known.get(text) is task:
                del self._known[text]
            raise

    async def _analyze(self, text: str, spent: Counter[str]) -> Reading:
        """Ask for the objects of one caption, again with another seed when the answer is of no use."""
        messages = caption_messages(text)
        schema = objects_schema(candidate_names(text) if self._constrain else ())
        key = cache_key(self._identity, messages, schema)
        kept = self._cache.get(key) if self._cache else None
        if kept is not None:
            spent["llm_cache_hits"] += 1
            return reading_of(kept, text)[0]
        malformed: MalformedAnswer | None = None
        answers: list[ChatAnswer] = []
        for attempt in range(self._config.max_attempts):
            answer = await self._ask(messages, schema, attempt, spent)
            answers.append(answer)
            try:
                reading, dropped = reading_of(answer.text, text)
            except MalformedAnswer as error:
                malformed = error
                continue
            malformed = None
            spent["llm_names_dropped"] += dropped
            if reading is not NO_OBJECTS:
                if self._cache:
                    self._cache.put(key, answer.text)
                return reading
        if malformed is not None:
            raise self._useless(answers, f"no answer to use for {text!r}: {malformed}")
        return NO_OBJECTS

    async def _describe(self, event: Event, jpegs: Sequence[bytes], spent: Counter[str]) -> str:
        """A caption from frames of the event, for a model that sees."""
        messages = frames_messages(event.label, jpegs)
        key = cache_key(self._identity, messages)
        caption = self._cache.get(key) if self._cache else None
        if caption is not None:
            spent["llm_cache_hits"] += 1
            return caption
        answers: list[ChatAnswer] = []
        for attempt in range(self._config.max_attempts):
            answer = await self._ask(messages, None, attempt, spent)
            answers.append(answer)
            caption = " ".join(_said(answer.text).split())
            if caption:
                if self._cache:
                    self._cache.put(key, caption)
                return caption
        raise self._useless(answers, f"the model wrote no caption for event {event.event_num}")

    def _useless(self, answers: Sequence[ChatAnswer], what: str) -> StepError | AbortError:
        """Why a question came to nothing, in all attempts; the end of the run where the first ones all got silence."""
        if any(answer.cut_off for answer in answers):
            limit = f"the limit of llm.max_tokens = {self._config.max_tokens}"
            what += f"; {limit} was hit (a model that thinks uses it up before it answers), so raise llm.max_tokens"
        silent = not any(_said(answer.text) for answer in answers)
        if silent and self._trial.lost("silence"):
            return AbortError(
                f"{self._identity}: the first {self._trial.needed} questions got no answer but empty ones: {what}; "
                "does llm.base_url end in /v1, and does the model chat?"
            )
        return StepError("llm_malformed", what, retryable=True)

    async def _ask(
        self, messages: list[Message], schema: dict[str, Any] | None, attempt: int, spent: Counter[str]
    ) -> ChatAnswer:
        answer = await self._chat.complete(
            messages,
            schema,
            max_tokens=self._config.max_tokens,
            temperature=_RETRY_TEMPERATURE if attempt else 0.0,
            seed=attempt,
        )
        spent["llm_requests"] += 1
        spent["tokens/prompt"] += answer.prompt_tokens
        spent["tokens/completion"] += answer.completion_tokens
        spent.update(f"{ADAPTED}{name}" for name in answer.adapted)
        self._trial.passed = self._trial.passed or bool(_said(answer.text))
        return answer

    def _price(self, spent: Counter[str]) -> float:
        prompt = spent["tokens/prompt"] * self._config.usd_per_million_prompt_tokens
        return (prompt + spent["tokens/completion"] * self._config.usd_per_million_completion_tokens) / 1e6

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_loop"} | {"_known": {}}


def check_llm(config: LLMConfig) -> None:
    """Whether the configured model can be used; starts nothing and sends nothing.

    Raises:
        ConfigError: a key, an endpoint, a model directory or vLLM is missing.
    """
    if config.backend == "openai":
        endpoint_of(config)
    else:
        check_local(config)


def build_captions(config: LLMConfig, cache_path: str | Path | None = None) -> AnalyzeCaptions:
    """The step with its model.

    Backend ``local`` starts a server when it is first needed, which ends with this process or with the step.

    Raises:
        ConfigError: see :func:`check_llm`.
    """
    check_llm(config)
    cache = LLMCache(cache_path) if cache_path else None
    if config.backend == "openai":
        url, key = endpoint_of(config)
        chat = ChatClient(config.model, url, key, config.concurrency, config.timeout_s, config.max_retries)
        return AnalyzeCaptions(config, chat, cache, identity=f"{config.model} at {url}")
    server = LocalLLM(config)
    chat = ChatClient(MODEL, server.base_url, server.api_key, config.concurrency, config.timeout_s, config.max_retries)
    return AnalyzeCaptions(config, chat, cache, server=server)


def _said(text: str) -> str:
    """What a model says after it has thought; nothing where its thinking never ends."""
    try:
        return spoken(text)
    except MalformedAnswer:
        return ""


def _unanswered(item: VideoItem) -> bool:
    return item.error is not None and item.error.reason in _PASSING


def _gravity(error: BaseException) -> int:
    """What ends the run comes first, then what may pass: a rerun repairs the video only if nothing else is wrong."""
    return 0 if not isinstance(error, StepError) else 1 if not error.retryable else 2
