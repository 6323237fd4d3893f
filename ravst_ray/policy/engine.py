"""The one wrapper around vLLM's async engine: prediction and GRPO rollouts both generate through it.

    engine = VideoLLM(EngineConfig(model="out/policy"))
    await engine.start()
    generation = await engine.generate("What …", clip, SamplingConfig(n=6, temperature=1.0))
    await engine.close()

vLLM is imported by :meth:`VideoLLM.start`. Its engine runs in a process of its own, which ends with this one.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ravst_ray.config.train import LoraConfig
from ravst_ray.config.video_llm import EngineConfig, SamplingConfig
from ravst_ray.errors import AbortError, ConfigError, StepError
from ravst_ray.logs import get_logger
from ravst_ray.media.clips import Clip
from ravst_ray.models.pretrained import model_source
from ravst_ray.policy.adapter import adapter_arguments, lora_request, no_change, write_adapter
from ravst_ray.policy.families import FAMILIES, family_of
from ravst_ray.policy.families.protocols import Family
from ravst_ray.policy.protocols import BAN, Completion, Generation

log = get_logger(__name__)
_ENGINES = itertools.count()
EXTENSION = "ravst_ray.policy.weight_loading.WeightExtension"
_QUOTED = 400  # characters of an error's start and of its end
_ASKED = 5  # times, a prompt that the engine breaks off
_BROKEN_OFF = ("error", "abort")


class VideoLLM:
    """A video-LLM in a vLLM engine.

    Args:
        config: the model and its engine.
        engine_options: further arguments of vLLM's engine.
        trainable: whether :meth:`set_weights` will be called.
        transport: how new weights come where they aren't files, by vLLM's name; implies ``trainable``.
        sleeps: whether :meth:`sleep` will be called; without a GPU it does nothing.
        adapter: new weights are such an adapter's alone (:mod:`~ravst_ray.policy.adapter`); until the first ones come
            the model answers as it was loaded.

    Attributes:
        weights: version and checksums (one a worker) of the weights at hand, for an engine that gets others.
        alive_at: when (``time.monotonic()``) the engine last gave a token of any request, or did what it was asked.
    """

    def __init__(
        self,
        config: EngineConfig,
        engine_options: Mapping[str, Any] | None = None,
        *,
        trainable: bool = False,
        transport: str | None = None,
        sleeps: bool = False,
        adapter: LoraConfig | None = None,
    ):
        self.config = config
        self._options = dict(engine_options or {})
        self._trainable, self._transport = trainable or transport is not None, transport
        self._sleeps, self._asleep = sleeps, False
        self._adapter = adapter
        self._given: Any = None  # what names the adapter in requests; in none of them to be loaded in place again
        self._joined = self._updating = self._session = False
        self.weights: tuple[int, tuple[str, ...]] = (0, ())
        self.alive_at = time.monotonic()
        self._ids = itertools.count()
        self.log_path = Path(tempfile.gettempdir()) / f"ravst-vllm-{os.getpid()}-{next(_ENGINES)}.log"
        self.engine: Any = None
        self.tokenizer: Any = None
        self.family: Family = FAMILIES[0]

    async def start(self) -> None:
        """Load the model; takes a minute or more.

        Raises:
            ConfigError: the model can't be loaded, or is of a family that isn't known.
        """
        model = model_source(self.config.model, "engine.model")
        self.family = family_of(model, "engine.model")
        _set_environment(self.config, self._transport)
        try:
            with _output_to(self.log_path):
                from vllm import AsyncEngineArgs
                from vllm.v1.engine.async_llm import AsyncLLM

                self.engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**self._arguments(model)))
        except (OSError, ValueError, RuntimeError) as error:
            hint = f"{self.log_path} says more; check the model, engine.max_model_len and the free memory"
            raise ConfigError(f"engine.model: vLLM can't start {model} ({error}); {hint}") from error
        self._listen()
        self.tokenizer = self.engine.get_tokenizer()
        if self._adapter is not None:
            # From the first one on each request names the adapter: one that waits while another is loaded must get it.
            with tempfile.TemporaryDirectory(prefix="ravst-adapter-") as folder:
                write_adapter(Path(folder), no_change(self._adapter), self._adapter)
                self._given = lora_request(folder)
                await self.engine.add_lora(self._given)
        if self._trainable:
            self.weights = 0, await self._checksums()
        self._bias = dict.fromkeys(self.family.banned_ids(self.tokenizer), BAN)

    def _listen(self) -> None:
        """Note when tokens come: outputs pass here once for each of the engine's steps, for all requests together.

        A request's own stream would tell it too, but would wake this process for each token of each request.
        """
        core = self.engine.engine_core
        output = core.get_output_async

        async def noted() -> Any:
            found = await output()
            self.alive_at = time.monotonic()
            return found

        core.get_output_async = noted

    def _arguments(self, model: str) -> dict[str, Any]:
        import torch

        on_gpu = torch.cuda.is_available()
        config = self.config
        arguments: dict[str, Any] = {
            "model": model,
            "dtype": config.dtype if config.dtype != "auto" else "bfloat16" if on_gpu else "float32",
            "max_model_len": config.max_model_len,
            "max_num_seqs": config.max_num_seqs,
            "max_num_batched_tokens": max(config.max_model_len, 8192),
            "tensor_parallel_size": config.tensor_parallel,
            "enforce_eager": config.eager if config.eager is not None else not on_gpu,
            "skip_mm_profiling": True,
            "generation_config": "vllm",  # a checkpoint's own sampling settings would mix with ours
            "logprobs_mode": "processed_logprobs",
            "disable_log_stats": True,
        }
        if self._adapter is not None:
            arguments |= adapter_arguments(self._adapter)
        if self._trainable:
            arguments["worker_extension_cls"] = EXTENSION
        if self._transport is not None:
            from vllm.config import WeightTransferConfig

            arguments["weight_transfer_config"] = WeightTransferConfig(backend=self._transport)
        if config.tensor_parallel > 1:
            # In a placement group vLLM would by itself take Ray for its workers, and find no room for them there.
            arguments["distributed_executor_backend"] = "mp"
        elif not on_gpu:
            # Named as a class: by its short name vLLM takes "mp", to pin threads to cores (ours aren't); 1.1 GB more.
            arguments["distributed_executor_backend"] = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
        if on_gpu:
            arguments["gpu_memory_utilization"] = config.gpu_memory_utilization
        self._sleeps = self._sleeps and on_gpu
        if self._sleeps:
            arguments["enable_sleep_mode"] = True
        return arguments | self.family.engine_arguments() | self._options

    async def generate(
        self, text: str, clip: Clip | None, sampling: SamplingConfig, *, logprobs: bool = False, seed: int | None = None
    ) -> Generation:
        """Complete one prompt ``sampling.n`` times.

        Args:
            text: what is said beside the video; the chat template is put around it.
            clip: the frames; None asks about text alone.
            sampling: how completions are drawn.
            logprobs: whether their log-probs are wanted.
            seed: replaces ``sampling.seed``.

        Raises:
            StepError: ``prompt_too_long``, ``bad_prompt`` or ``engine_error``; other prompts are unharmed.
            AbortError: the engine is dead.
        """
        from vllm.exceptions import VLLMValidationError
        from vllm.sampling_params import RequestOutputKind, SamplingParams
        from vllm.v1.engine.exceptions import EngineGenerateError

        greedy = sampling.temperature == 0
        parameters = SamplingParams(
            n=sampling.n,
            temperature=sampling.temperature,
            top_p=1.0 if greedy else sampling.top_p,
            top_k=0 if greedy else sampling.top_k,
            max_tokens=sampling.max_tokens,
            seed=None if greedy else (sampling.seed if seed is None else seed),
            logprobs=0 if logprobs else None,
            logit_bias=self._bias,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        prompt = self.family.request(self.tokenizer, text, clip)
        for _ in range(_ASKED):
            final: Any = None
            try:
                with self._living():
                    async for output in self.engine.generate(
                        prompt, parameters, request_id=f"r{next(self._ids)}", lora_request=self._given
                    ):
                        final = output
            except (ValueError, VLLMValidationError) as error:
                raise _refusal(error) from None
            except EngineGenerateError as error:  # what the media are refused for comes wrapped up
                if not isinstance(error.__cause__, (ValueError, VLLMValidationError)):
                    raise
                raise _refusal(error.__cause__) from None
            # A request that comes while the caches are emptied may name pictures that the engine has no more; vLLM ends
            # it without a token, and sends them with the next one.
            if all(one.finish_reason not in _BROKEN_OFF for one in final.outputs):
                completions = tuple(_completion(one, logprobs) for one in final.outputs)
                return Generation(tuple(final.prompt_token_ids), completions)
        raise StepError("engine_error", f"vLLM gave up on the prompt {_ASKED} times; {self.log_path} says why")

    async def set_weights(self, path: str, version: int) -> float:
        """Load new weights once the requests that are running have ended; later ones wait meanwhile.

        Args:
            path: a safetensors file with names and shapes of the Hugging Face checkpoint; what it lacks stays. For an
                engine with an adapter, a folder with a new one, which may go when this has come back.
            version: which completions then carry.

        Returns:
            The seconds until the running requests had ended.

        Raises:
            AbortError: the engine is dead.
        """
        drained_s = await self._pause()
        with self._living():
            if self._adapter is not None:
                await self.engine.add_lora(lora_request(path, load_inplace=True))
                checksums = await self._checksums()
            else:
                checksums = tuple(await self.engine.collective_rpc("ravst_load_weights", args=(path,)))
            await self.engine.update_weight_version(str(version))
        await self._resume(version, checksums)
        return drained_s

    async def join_transfer(self, info: dict[str, Any]) -> None:
        """Set up a transport; ``info`` is vLLM's ``init_info`` of it. A second call leaves the first one's peers.

        An update that broke off is left as well; the engine waits for the next one.
        """
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        with self._living():
            await self._leave_update()
            if self._joined:
                await self.engine.shutdown_weight_transfer_engine()
            self._joined = True  # also when it fails half-way
            await self.engine.init_weight_transfer_engine(WeightTransferInitRequest(init_info=info))

    async def begin_update(self) -> float:
        """Get ready for new weights; the three steps of :meth:`set_weights` are for transports that send in parts.

        Returns:
            The seconds until the running requests had ended.
        """
        drained_s = await self._pause()
        with self._living():
            await self.engine.start_weight_update()
            self._session = True
        return drained_s

    async def update(self, info: dict[str, Any]) -> None:
        """Load what ``info`` tells of, which is vLLM's ``update_info`` of the transport."""
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        with self._living():
            await self.engine.update_weights(WeightTransferUpdateRequest(update_info=info))

    async def end_update(self, version: int) -> None:
        """Generate with the new weights from here on."""
        with self._living():
            await self.engine.finish_weight_update(str(version))
            self._session = False
            checksums = await self._checksums()
        await self._resume(version, checksums)

    async def _pause(self) -> float:
        """Let what is running end and keep the rest waiting; gives the seconds until it had ended."""
        started = time.monotonic()
        with self._living():
            if self._updating:  # the last one broke off: nothing runs, and the engine is awake
                await self._leave_update()
            elif self._asleep:  # falling asleep has emptied the caches
                await self.engine.wake_up(["weights"])
                started = time.monotonic()
            else:
                # vLLM's pause_generation without its last 20 ms of sleep. The caches of prefixes, pictures and features
                # go: they belong to the old weights.
                await self.engine.renderer.clear_mm_cache_async()
                await self.engine.engine_core.pause_scheduler_async(mode="wait", clear_cache=True)
            self._updating = True
        return time.monotonic() - started

    async def _resume(self, version: int, checksums: tuple[str, ...]) -> None:
        with self._living():
            if self._asleep:
                await self.engine.wake_up(["kv_cache"])  # now all is there again, and vLLM resumes by itself
                self._asleep = False
            else:
                await self.engine.resume_generation()
        self._updating, self.weights = False, (version, checksums)

    async def _leave_update(self) -> None:
        """End an update that broke off, or vLLM would begin no other; weights that haven't come stay as they were."""
        if self._session:
            await self.engine.finish_weight_update()
            self._session = False

    async def _checksums(self) -> tuple[str, ...]:
        return tuple(await self.engine.collective_rpc("ravst_weight_checksum"))

    async def sleep(self, level: int) -> None:
        """Free the card's memory, once the requests that are running have ended, until new weights come.

        Args:
            level: 1 keeps the weights in main memory; 2 drops them, so that the next update must bring all of them.
        """
        if not self._sleeps or self._asleep:
            return
        with self._living():
            await self.engine.sleep(level, mode="wait")
            self._asleep = True

    @contextmanager
    def _living(self) -> Iterator[None]:
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            yield
            self.alive_at = time.monotonic()
        except EngineDeadError as error:
            raise AbortError(f"the vLLM engine of {self.config.model} has died; {self.log_path} says why") from error

    async def close(self) -> None:
        """End the engine."""
        engine, self.engine = self.engine, None
        if engine is not None:
            engine.shutdown()


def _refusal(error: Exception) -> StepError:
    text = str(error)
    reason = "prompt_too_long" if "context length" in text else "bad_prompt"
    if len(text) > 2 * _QUOTED:  # it may quote a whole array
        text = f"{text[:_QUOTED]} … {text[-_QUOTED:]}"
    return StepError(reason, f"vLLM refuses the prompt: {text}")


def _completion(output: Any, logprobs: bool) -> Completion:
    tokens = tuple(output.token_ids)
    values: tuple[float, ...] = ()
    if logprobs:
        values = tuple(place[token].logprob for token, place in zip(tokens, output.logprobs, strict=True))
    return Completion(tokens, values, _versions(output, len(tokens)), output.text, output.finish_reason == "length")


def _versions(output: Any, length: int) -> tuple[int, ...]:
    spans = output.weight_versions or ()
    versions = [0] * length
    for span in spans:
        if str(span.version).isdigit():
            end = min(span.end, length)
            versions[span.start : end] = [int(span.version)] * (end - span.start)
    return tuple(versions) if spans else ()


@contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Send what this process and those that it starts write to stdout and stderr to a file.

    The engine's processes keep it; this one gets its own output back at the end.
    """
    kept = [os.dup(number) for number in (1, 2)]
    with path.open("ab") as log_file:
        for number in (1, 2):
            os.dup2(log_file.fileno(), number)
    try:
        yield
    finally:
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)


def _set_environment(config: EngineConfig, transport: str | None) -> None:
    """What vLLM reads from the environment alone."""
    if transport == "ipc":  # handles of a card's memory travel pickled, between this process and those of its engine
        os.environ.setdefault("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")
    for key, value in {
        "VLLM_CPU_KVCACHE_SPACE": str(config.cpu_kv_cache_gib),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # several engines share a machine
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "PYTHONSAFEPATH": "1",  # a types.py in the working directory is not for the engine's processes
    }.items():
        os.environ.setdefault(key, value)
