"""What can happen to an annotation run on a cluster, done on purpose to real ones.

Processes, a node, the head, the driver and the language model's endpoint are lost in mid-run, and a decoder hangs.
Every run ends, by itself or by the same command, in the dataset of an undisturbed one.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from ravst_ray.datasets.store import DatasetStore
from tests.fake_endpoint import FakeEndpoint
from tests.s3_server import BUCKET, s3_server
from tests.short_world import Endpoint, write_short_world
from tests.test_pipeline import LAPTOP, ROOT, content

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

VIDEOS = 5


@pytest.fixture(scope="module")
def short_world(tmp_path_factory):
    """Videos of three seconds with captions."""
    root = tmp_path_factory.mktemp("short")
    write_short_world(root, VIDEOS)
    return root


@contextmanager
def started():
    """A cluster of a head, a node that decodes and a node with a (logical) GPU, on loopback."""
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=2)
        add_gpu_node(cluster)
        yield cluster
    finally:
        cluster.shutdown()


def add_gpu_node(cluster):
    return cluster.add_node(num_cpus=1, num_gpus=1)


@pytest.fixture(scope="module")
def endpoint():
    """One for all runs."""
    answers = Endpoint()
    with FakeEndpoint(answers) as server:
        answers.base_url = server.base_url
        yield answers


@pytest.fixture(scope="module")
def s3():
    """An object store; whoever starts after it, the nodes of the cluster among them, finds it in the environment."""
    with s3_server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(scope="module")
def cluster(s3):
    """One for all runs that leave it whole."""
    with started() as made:
        yield made


@pytest.fixture(scope="module")
def command(short_world, endpoint):
    """The command line of a run into a directory."""

    def make(output, *more):
        settings = {
            "input.annotations": short_world / "labels.json",
            "input.videos": short_world / "videos",
            "output": output,
            "filter.max_events": 9,
            "llm.backend": "openai",
            "llm.model_dir": "null",
            "llm.base_url": endpoint.base_url,
            "llm.max_retries": 1,
            "llm.timeout_s": 20,
            "actors.ground": "{min: 1, max: 1, num_cpus: 0.1, num_gpus: 1}",
            "report_videos": 0,
        }
        places = [f"{key}={value}" for key, value in settings.items()]
        return [sys.executable, "jobs/annotate.py", "--config", str(LAPTOP), *places, *more]

    return make


def start(cluster, command):
    """A driver, as a job submitted to the cluster would be."""
    environment = {**os.environ, "RAY_ADDRESS": cluster.address, "OPENAI_API_KEY": "none"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def finish(process, status=0):
    said = process.communicate(timeout=300)[0]
    assert process.returncode == status, said
    return said


@pytest.fixture(scope="module")
def baseline(cluster, command, tmp_path_factory):
    """The dataset of an undisturbed run."""
    output = tmp_path_factory.mktemp("baseline") / "out"
    finish(start(cluster, command(output)))
    found = content(output)
    assert len({row["video_id"] for row in found["annotations"]}) == VIDEOS and not found["errors"]
    assert any(row["tracks"] for row in found["annotations"]) and found["qa"]
    return found


def wait_for(condition, process, within_s=200.0):
    """Give what the condition gives once it is something, while the process runs."""
    until = time.monotonic() + within_s
    while not (found := condition()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, "not in time"
        time.sleep(0.02)
    return found


def committed(output):
    return list((output / "_commit" / "units").glob("*.json"))


def parent(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def processes(cluster, title, generations):
    """Pids whose command line holds ``title``, so many generations below a raylet of the cluster."""
    raylets = {info.process.pid for node in cluster.list_all_nodes() for info in node.all_processes["raylet"]}
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            shown = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        pid = ancestor = int(path.parent.name)
        for _ in range(generations):
            ancestor = parent(ancestor)
        if title in shown and ancestor in raylets:
            found.append(pid)
    return found


def decoders(cluster):
    return processes(cluster, "ravst_ray.backends.decode_child", 2)


def busy_grounders(cluster, output):
    return committed(output) and processes(cluster, "GroundActor", 1)


@pytest.mark.parametrize(
    "victims", [lambda cluster, output: decoders(cluster), busy_grounders], ids=["decoder", "actor"]
)
def test_a_process_that_is_killed(cluster, command, baseline, tmp_path, victims):
    """A decoder's child at its first video; the actor that grounds, in mid-run."""
    output = tmp_path / "out"
    process = start(cluster, command(output))
    (victim,) = wait_for(lambda: victims(cluster, output), process)
    os.kill(victim, signal.SIGKILL)
    finish(process)
    assert content(output) == baseline


def test_a_node_that_is_lost(cluster, command, baseline, tmp_path):
    """The one with the GPU; another comes, as an autoscaler would bring it."""
    process = start(cluster, command(tmp_path / "out"))
    wait_for(lambda: committed(tmp_path / "out"), process)
    (node,) = [node for node in cluster.worker_nodes if node.get_resource_and_label_spec().num_gpus]
    cluster.remove_node(node, allow_graceful=False)
    add_gpu_node(cluster)
    finish(process)
    assert content(tmp_path / "out") == baseline


def test_a_driver_that_is_killed(cluster, command, baseline, tmp_path):
    process = start(cluster, command(tmp_path / "out"))
    wait_for(lambda: committed(tmp_path / "out"), process)
    process.kill()
    process.communicate()
    assert len(committed(tmp_path / "out")) < VIDEOS
    said = finish(start(cluster, command(tmp_path / "out")))
    assert "are left as they are" in said
    assert content(tmp_path / "out") == baseline


def test_a_decoder_that_hangs_and_retry(cluster, command, baseline, tmp_path):
    """The planned victim is the one error; ``ravst retry`` does it again, and it alone."""
    output = tmp_path / "out"
    process = start(cluster, command(output, "decode.deadline_s=15"))
    (child,) = wait_for(lambda: decoders(cluster), process)
    os.kill(child, signal.SIGSTOP)  # it answers nothing and no exception reaches it, as in a native hang
    said = finish(process)
    assert "errors: decode_deadline 1" in said
    errors = content(output)["errors"]
    assert [(row["stage"], row["reason"]) for row in errors] == [("decode", "decode_deadline")]
    victim = errors[0]["video_id"]
    others = [row for row in baseline["annotations"] if row["video_id"] != victim]
    assert content(output)["annotations"] == others
    retry = [sys.executable, "-m", "ravst_ray.cli", "retry", str(output), "--reason", "decode_deadline"]
    finish(start(cluster, [*retry, "decode.deadline_s=120"]))
    assert content(output) == baseline


def test_an_endpoint_that_is_slow_and_then_away(cluster, command, baseline, endpoint, tmp_path):
    """What it didn't answer is an errors row that may pass; the same command does it once it is back."""
    output = tmp_path / "out"
    endpoint.delay_s = 1.0
    try:
        process = start(cluster, command(output, "llm.concurrency=1"))
        wait_for(lambda: committed(output), process)
        endpoint.away = True
        said = finish(process)
    finally:
        endpoint.away, endpoint.delay_s = False, 0.0
    errors = list(DatasetStore(str(output)).rows("errors"))
    assert errors and all((row["stage"], row["retryable"]) == ("captions", True) for row in errors), said
    finish(start(cluster, command(output)))
    assert content(output) == baseline


def test_an_object_store_that_is_busy(cluster, command, baseline, s3, tmp_path):
    """Every third request is turned away with status 503 from the first committed video on."""
    output, copy = f"s3://{BUCKET}/out", tmp_path / "out"
    turned_away = []

    def busy(method, path):
        number = len(s3.requests)
        if number % 3 or not any("_commit/units" in name for _, name in s3.requests):
            return None
        turned_away.append(number)
        return 503

    s3.spoil = busy
    try:
        finish(start(cluster, command(output)))
    finally:
        s3.spoil = lambda method, path: None
    assert len(turned_away) > 10
    for key in s3.keys("out/"):
        place = copy / key.removeprefix("out/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(s3.get(key))
    assert content(copy) == baseline


@pytest.fixture
def small_disk(tmp_path):
    """A file system with room for a few megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs more rights")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def test_a_disk_that_is_full(cluster, command, baseline, small_disk):
    """The run ends with a message; once there is room, the same command goes on."""
    output, ballast = small_disk / "out", small_disk / "ballast"
    process = start(cluster, command(output))
    wait_for(lambda: committed(output), process)
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(4096))
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 1 and "No space left on device" in said and "Traceback" not in said, said
    assert 0 < len(committed(output)) < VIDEOS
    ballast.unlink()
    finish(start(cluster, command(output)))
    assert content(output) == baseline


def language_models(endpoint):
    """Pids of the servers that the cluster's actors started, nobody's children: they have its environment."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            shown, environment = (place / "cmdline").read_bytes(), (place / "environ").read_bytes()
        except OSError:
            continue
        if (
            b"\0vllm.entrypoints.launchers" in shown
            and b"llm_server.py" not in shown
            and endpoint.encode() in environment
        ):
            found.append(int(place.name))
    return found


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_local_language_model_that_is_killed(cluster, command, s3, tmp_path):
    """Another is started, and asked again."""
    local = ["llm.backend=local", "llm.model_dir=smollm2", "llm.start_timeout_s=500", "llm.cache=null"]
    finish(start(cluster, command(tmp_path / "undisturbed", *local)))
    process = start(cluster, command(tmp_path / "out", *local))
    (server,) = wait_for(lambda: language_models(s3.endpoint), process, within_s=500)
    os.kill(server, signal.SIGKILL)
    said = finish(process)
    assert "is started anew" in said
    assert content(tmp_path / "out") == content(tmp_path / "undisturbed")


def test_the_head_that_is_lost(command, baseline, tmp_path):
    """The driver ends with a message; the same command on another cluster goes on."""
    output = tmp_path / "out"
    with started() as doomed:
        process = start(doomed, command(output))
        wait_for(lambda: committed(output), process)
        doomed.shutdown()
        said = process.communicate(timeout=200)[0]
    assert process.returncode != 0, said
    assert len(committed(output)) < VIDEOS
    with started() as fresh:
        finish(start(fresh, command(output)))
    assert content(output) == baseline
