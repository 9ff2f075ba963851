"""Where a batch's jobs run: threads that wait for processes of this machine, or Dask's workers."""

import os
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from kprune.data.checks import first_line, number
from kprune.laboratory.processes import Outcome
from kprune.laboratory.yaml_files import read_yaml

LACKING = "--scheduler needs the optional extra: pip install 'kprune[cluster]'."


@contextmanager
def executor(workers: int, scheduler: str, say: Callable) -> Iterator[Executor]:
    """Where jobs run: threads that wait for processes, or Dask's workers."""
    if not scheduler:
        with Local(workers) as pool:
            yield pool
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise ValueError(LACKING) from error
    if scheduler.endswith((".yaml", ".yml")):
        with cluster(Path(scheduler)) as address, executor(0, address, say) as found:
            yield found
        return
    if "://" not in scheduler:
        raise ValueError(
            f"{scheduler!r} is neither an address such as tcp://host:8786 nor a YAML file."
        )
    try:
        client = Client(scheduler, timeout=10)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"No Dask scheduler answers at {scheduler}; start one with `dask scheduler`."
        ) from error
    with client:
        say(f"Dask at {scheduler}: {len(client.scheduler_info()['workers'])} workers.")
        yield client.get_executor(pure=False)


@contextmanager
def cluster(path: Path) -> Iterator[str]:
    """Start a dask-jobqueue cluster from a YAML file; gives its scheduler's address.

    The file names the `cluster` (SLURM, PBS, Local, …: dask-jobqueue's class without "Cluster"),
    the number of `jobs` and the `options` of the class, such as queue, cores, memory, walltime.
    """
    try:
        import dask_jobqueue
        from dask_jobqueue.local import LocalCluster
    except ImportError as error:
        raise ValueError(LACKING) from error
    settings = read_yaml(path, "cluster")
    needed = {"cluster", "jobs"}
    if not isinstance(settings, dict) or not needed <= settings.keys() <= needed | {"options"}:
        raise ValueError(f"{path} must name cluster and jobs, and may give options.")
    jobs = number(f"jobs in {path}", settings["jobs"], 1)
    known = {**vars(dask_jobqueue), "LocalCluster": LocalCluster}  # that one runs jobs right here
    name = f"{settings['cluster']}Cluster"
    if name not in known or name == "JobQueueCluster":  # which is what they have in common
        raise ValueError(f"dask-jobqueue has no cluster {settings['cluster']!r}.")
    options = settings.get("options") or {}
    if not isinstance(options, dict):
        raise ValueError(f"options in {path} are name: value, each on a line; got {options!r}.")
    try:
        started = known[name](**options)
    except Exception as error:  # whatever it makes of a value, which it hands on unlooked at
        reason = first_line(error)
        raise ValueError(f"{path}: {name} does not take these options: {reason}") from error
    with started:
        started.scale(jobs=jobs)
        yield started.scheduler_address


class Local(ThreadPoolExecutor):
    """Threads that each wait for one process; each process has a GPU of its own, or some cores."""

    def __init__(self, workers: int):
        gpus = [str(number) for number in range(torch.cuda.device_count())]
        if gpus and (visible := os.environ.get("CUDA_VISIBLE_DEVICES")):
            gpus = visible.split(",")[: len(gpus)]
        workers = workers or max(1, len(gpus))
        self.stop, self.slots = threading.Event(), queue.SimpleQueue()
        for worker in range(workers):
            own = {}
            if gpus:
                own["CUDA_VISIBLE_DEVICES"] = gpus[worker % len(gpus)]
            elif workers > 1:  # processes whose threads share cores wait for each other
                own["OMP_NUM_THREADS"] = str(max(1, torch.get_num_threads() // workers))
            self.slots.put(own)
        super().__init__(workers)

    def submit(self, make: Callable, job: Any, cwd: Path) -> Future:
        def work() -> Outcome:
            slot = self.slots.get()
            try:
                return make(job, cwd, slot, self.stop)
            finally:
                self.slots.put(slot)

        return super().submit(work)
