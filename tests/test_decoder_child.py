"""What the decoder's child process is given and what it isn't: keys, modules, the network, memory, time."""

import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ravst_ray.config.annotate import DecodeConfig
from ravst_ray.errors import StepError
from ravst_ray.media import decoding
from ravst_ray.media.decoding import ChildDecoder
from tests import proc
from tests.broken_videos import Recipe, write_video

ROOT = Path(__file__).parents[1]
SECRETS = {
    "OPENAI_API_KEY": "sk-planted", "AWS_SECRET_ACCESS_KEY": "aws-planted", "HF_TOKEN": "hf-planted",
    "DATABASE_URL": "postgres://me:pw-planted@host", "https_proxy": "http://me:proxy-planted@host",
}  # fmt: skip
MIB = 2**20


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> str:
    return str(write_video(tmp_path_factory.mktemp("plain") / "plain.mp4"))


@pytest.fixture
def decoder():
    made = ChildDecoder(DecodeConfig(backend="pyav"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared():
    made = ChildDecoder(DecodeConfig(backend="pyav"))
    yield made
    made.close()


def limit(pid: int, name: str) -> tuple[str, str]:
    """Soft and hard."""
    line = next(line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if line.startswith(name))
    soft, hard = line[len(name) :].split()[:2]
    return soft, hard


def test_the_child_has_no_keys_and_is_limited(monkeypatch, decoder, plain):
    for name, value in {**SECRETS, "RAVST_LOG_LEVEL": "WARNING", "LC_ALL": "C.UTF-8"}.items():
        monkeypatch.setenv(name, value)
    decoder.decode(plain, [0.0])
    given = dict(line.split("=", 1) for line in proc.environment(decoder.pid).split("\0") if line)
    assert not [name for name, value in given.items() if name in SECRETS or "planted" in value]
    assert (given["RAVST_LOG_LEVEL"], given["LC_ALL"], given["PATH"]) == ("WARNING", "C.UTF-8", os.environ["PATH"])
    assert "planted" not in proc.command_line(decoder.pid)
    assert "-P" in proc.command_line(decoder.pid).split()
    assert Path(f"/proc/{decoder.pid}/oom_score_adj").read_text().strip() == "1000", "the kernel's first choice"
    assert limit(decoder.pid, "Max core file size") == ("0", "0")
    assert 7.9 < int(limit(decoder.pid, "Max address space")[0]) / 2**30 < 9, "2 GiB, 6 for pictures of 8K, libraries"
    cpu_s = int(limit(decoder.pid, "Max cpu time")[0])
    assert 480 < cpu_s < 500, "four busy threads up to the deadline of 120 s, and what its start took"


def test_the_child_has_no_network(shared, plain):
    """Where the system allows that: then not even loopback is there."""
    allowed = subprocess.run(["unshare", "--net", *([] if os.geteuid() == 0 else ["--user"]), "true"]).returncode == 0
    shared.decode(plain, [0.0])
    devices = Path(f"/proc/{shared.pid}/net/dev").read_text().splitlines()[2:]
    routes = Path(f"/proc/{shared.pid}/net/route").read_text().splitlines()[1:]
    if not allowed:
        pytest.skip("this system lets no process leave the network")
    assert [line.split(":")[0].strip() for line in devices] == ["lo"] and routes == []
    assert os.readlink(f"/proc/{shared.pid}/ns/net") != os.readlink("/proc/self/ns/net")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become somebody else")
def test_an_ordinary_user_is_cut_off_too_and_reads_by_its_groups():
    """In a user namespace of its own: what the kernel grants goes on by the real user and all its groups."""
    program = (
        "import os, tempfile\n"
        "folder = tempfile.mkdtemp(dir='/tmp')\n"
        "os.chmod(folder, 0o777)\n"
        "files = ('own', 4711, 4711, 0o600), ('group', 0, 815, 0o640), ('alien', 0, 0, 0o600)\n"
        "for name, owner, group, mode in files:\n"
        "    path = os.path.join(folder, name)\n"
        "    open(path, 'w').close()\n"
        "    os.chown(path, owner, group)\n"
        "    os.chmod(path, mode)\n"
        "os.setgroups([815]); os.setgid(4711); os.setuid(4711)\n"
        "before = os.readlink('/proc/self/ns/net')\n"
        "from ravst_ray.media.confine import leave_network\n"
        "left = leave_network()\n"
        "readable = [name for name in sorted(os.listdir(folder)) if os.access(os.path.join(folder, name), os.R_OK)]\n"
        "print(left, before != os.readlink('/proc/self/ns/net'), readable)\n"
        "for name in readable:\n"
        "    open(os.path.join(folder, name)).close()\n"
        "for name in os.listdir(folder):\n"
        "    os.remove(os.path.join(folder, name))\n"
    )
    python = [sys.executable, "-c", "from ravst_ray.media import confine\n" + program]
    done = subprocess.run(python, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    left, away, readable = done.stdout.split(" ", 2)
    assert readable.strip() == "['group', 'own']"
    assert left == away


def test_modules_in_the_working_directory_do_not_matter(tmp_path, plain):
    """Not even where the parent's path leads there first; the child's own ravst_ray is the parent's."""
    for name in ("av", "types", "json", "numpy", "decord", "pydantic", "resource"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the one in the working directory')\n")
    (tmp_path / "ravst_ray").mkdir()
    (tmp_path / "ravst_ray" / "__init__.py").write_text("raise SystemExit('another one')\n")
    program = (
        "import sys\n"
        "from ravst_ray.config.annotate import DecodeConfig\n"
        "from ravst_ray.media.decoding import ChildDecoder\n"
        "sys.path[:0] = ['', sys.argv[2]]\n"
        "decoder = ChildDecoder(DecodeConfig())\n"
        "print(len(decoder.decode(sys.argv[1], [0.0, 1.0]).frames.jpegs))\n"
        "decoder.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, plain, str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr


def test_a_video_that_needs_too_much_memory_is_one_error(tmp_path, plain):
    large = str(write_video(tmp_path / "large.mp4", Recipe(pictures=3, width=3840, height=2160, sound=False)))
    decoder = ChildDecoder(DecodeConfig(backend="pyav"), memory_bytes=70 * MIB)
    decoder.decode(plain, [0.0])
    first = decoder.pid
    with pytest.raises(StepError) as caught:
        decoder.decode(large, [0.0])
    assert (caught.value.reason, caught.value.retryable) == ("too_large_to_decode", False)
    assert "large.mp4: decoding it takes more than 0.1 GiB" in caught.value.message
    assert len(decoder.decode(plain, [0.0, 1.0]).frames.jpegs) == 2, "its neighbours are well"
    assert decoder.pid != first
    decoder.close()
    roomy = ChildDecoder(DecodeConfig(backend="pyav"), memory_bytes=600 * MIB)
    assert len(roomy.decode(large, [0.0]).frames.jpegs) == 1
    roomy.close()


def test_the_sound_of_a_part_keeps_its_place(shared, tmp_path):
    """What the child finds out about a long file reaches its parent, with where in the file it was."""
    path = write_video(tmp_path / "long.mp4", Recipe(pictures=75, gaps_ms=(2000,), sound_rate=8000, sound_from_s=65.0))
    loud = shared.decode(str(path), [70.0, 72.0]).loudness
    assert (loud.step_s, loud.start_s) == (0.1, 60.0), "from ten seconds before what is wanted"
    assert loud.level_db_T[20] < -60 and loud.level_db_T[80] == pytest.approx(-9.03, abs=0.5)
    whole = shared.index(str(path))
    assert (whole.duration_s, whole.width, whole.height, whole.has_audio) == (150.0, 96, 80, True)


SPIN = "from ravst_ray.media.confine import limit_cpu\nlimit_cpu(0.2)\nlimit_cpu(0.3)\nwhile True: pass\n"


@pytest.mark.faults
def test_a_child_that_spins_ends_though_nobody_kills_it():
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", SPIN], env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60)
    assert done.returncode == -signal.SIGXCPU and time.monotonic() - started < 30
    error = decoding._crash("a.mp4", -signal.SIGXCPU)
    assert (error.reason, error.retryable) == ("decode_deadline", False)


def test_memory_can_be_limited_more_than_once():
    program = (
        "import resource\nfrom ravst_ray.media.confine import limit_memory\n"
        "limit_memory(10**7)\nlimit_memory(10**9)\nbytes(5 * 10**8)\n"
        "try: bytes(10**9)\nexcept MemoryError: print('refused')\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
    assert done.stdout == "refused\n", done.stderr


def test_a_timeline_tells_when_each_picture_is_shown_and_what_a_player_counts_from(shared, tmp_path):
    recipe = Recipe(pictures=12, gaps_ms=(40, 80, 40), start_ms=1000, rotation=90)
    found = shared.timeline(str(write_video(tmp_path / "late.mp4", recipe)))
    *starts_ms, end_ms = recipe.starts_ms()
    assert found.starts_s_T == pytest.approx([start / 1000 for start in starts_ms], abs=1e-6)
    assert found.end_s == pytest.approx(end_ms / 1000, abs=0.05)
    # Chromium shows the first picture of such a file at 1.0 s (measured): it counts as the container does.
    assert found.player_offset_s == pytest.approx(1.0)
    assert (found.meta.width, found.meta.height) == (80, 96) and found.notes == ("turned left by 90 degrees",)
    assert (found.codec, found.pixels, found.meta.has_audio) == ("h264", "yuv420p", True)
    with pytest.raises(StepError) as caught:
        shared.timeline(str(tmp_path / "none.mp4"))
    assert caught.value.reason == "missing_file"


def message(header: object, payload: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack(">IQ", len(text), len(payload)) + text + payload


@pytest.mark.parametrize(
    "message",
    [
        b"\xff" * 64,
        message([]),
        message({}),
        message({"kind": "jpegs", "sizes": [4]}, b"%!PS"),
        message({"kind": "done"}),
    ],
    ids=["endless", "list", "empty", "script", "lacking"],
)
def test_a_child_that_was_subverted_can_not_hurt_its_parent(shared, plain, message):
    """It may claim messages of any length, or say what makes no sense."""
    shared.decode(plain, [0.0])
    ours, shared._child.channel = shared._child.channel, Nonsense(message)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(StepError, match="sent nonsense") as caught:
        shared.decode(plain, [0.0])
    ours.close()
    assert (caught.value.reason, caught.value.retryable) == ("decoder_crashed", False)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024
    assert len(shared.decode(plain, [0.0]).frames.jpegs) == 1


class Nonsense(decoding.Channel):
    """A channel from which these bytes come."""

    def __init__(self, message: bytes):
        end, self._other = socket.socketpair()
        super().__init__(end)
        self._other.sendall(message)
