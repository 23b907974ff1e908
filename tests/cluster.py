"""A real SLURM on this machine: munged, slurmctld and one slurmd, for tests that need `sbatch` and `scontrol requeue`.

Everything lies below one folder, on ports of its own, and only what was started here is ended. Without slurmdbd there
is no `sacct`. More processors are declared than there are, so that several tiny jobs run at once.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")

CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire={requeue_s}
CredType=cred/munge
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2,sched_min_interval=100000
ReturnToService=2
MpiDefault=none
KillWait=2
MinJobAge=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=64000 State=UNKNOWN
PartitionName=test Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""


class Unavailable(Exception):
    """No SLURM can be started here; the text is the reason."""


@dataclass(frozen=True)
class Cluster:
    """A running cluster. Commands and jobs need `environment`, which names its configuration."""

    folder: Path
    environment: Mapping[str, str]

    def call(self, *command: str) -> str:
        """Runs a SLURM command and returns what it printed."""
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=self.environment, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def jobs(self) -> dict[str, str]:
        """The state of every job in the queue, array tasks by `17_3`."""
        lines = self.call("squeue", "--noheader", "--array", "--states=all", "--format=%i %T").splitlines()
        return {line.split()[0]: line.split()[1] for line in lines}


@contextmanager
def start(folder: Path, cpus: int = 6, requeue_s: int = 10) -> Iterator[Cluster]:
    """Runs a cluster below `folder`, and ends it with all its jobs.

    Args:
        cpus: processors of its one node, whatever the machine has.
        requeue_s: how long a requeued job waits before it starts again; two minutes on an ordinary cluster.

    Raises:
        Unavailable: packages are missing, or the user is not root.
    """
    if os.geteuid() != 0:
        raise Unavailable("SLURM's daemons are started as root")
    if missing := [name for name in NEEDED if not shutil.which(name)]:
        raise Unavailable(f"{', '.join(missing)}: not installed (Debian packages slurm-wlm, munge)")
    _write_config(folder, cpus, requeue_s)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_", "MLFLOW_"))}
    cluster = Cluster(folder, inherited | {"SLURM_CONF": str(folder / "slurm.conf")})
    with ExitStack() as stack:
        stack.callback(_kill_rest, cluster)
        for daemon in (_munged(folder), ["slurmctld", "-D"], ["slurmd", "-D", "-N", "localhost"]):
            stack.enter_context(_running(cluster, daemon))
        _wait_until_idle(cluster)
        try:
            yield cluster
        finally:
            _end_jobs(cluster)


def _write_config(folder: Path, cpus: int, requeue_s: int) -> None:
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)  # munge refuses a socket that others could not reach
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    controller_port, node_port = _free_ports(2)
    text = CONFIG.format(
        host=socket.gethostname().split(".")[0],
        folder=folder,
        controller_port=controller_port,
        node_port=node_port,
        cpus=cpus,
        requeue_s=requeue_s,
    )
    (folder / "slurm.conf").write_text(text)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _munged(folder: Path) -> list[str]:
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed"}
    return ["munged", "--foreground", "--force", *(f"--{k}={folder}/munge.{v}" for k, v in files.items())]


@contextmanager
def _running(cluster: Cluster, command: list[str]) -> Iterator[None]:
    """A daemon in the foreground: a child of this process, ended with it or by name."""
    with (cluster.folder / f"{command[0]}.out").open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=cluster.environment)
    try:
        if command[0] == "munged":
            _wait(lambda: (cluster.folder / "munge.socket").exists(), "munged made no socket", cluster)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_idle(cluster: Cluster) -> None:
    def idle() -> bool:
        try:
            return cluster.call("sinfo", "--noheader", "--format=%T").strip() == "idle"
        except RuntimeError:
            return False  # the controller does not answer yet

    _wait(idle, "the node does not become idle", cluster)


def _end_jobs(cluster: Cluster) -> None:
    """Cancels what is left, so that no job outlives its daemons."""
    try:
        cluster.call("scancel", "--user=root")
        _wait(lambda: not cluster.call("squeue", "--noheader"), "jobs do not end", cluster)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        print(error)


def _kill_rest(cluster: Cluster) -> None:
    """Ends what was started with this cluster's configuration and is still there: steps of jobs, heads of sweeps."""
    mark = f"SLURM_CONF={cluster.environment['SLURM_CONF']}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:  # it has ended meanwhile
            continue


def _wait(reached: Callable[[], bool], failure: str, cluster: Cluster, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > deadline:
            logs = "\n".join(f"{f.name}: {f.read_text()[-800:]}" for f in sorted(cluster.folder.glob("*.out")))
            raise RuntimeError(f"{failure}\n{logs}")
        time.sleep(0.1)
