"""Alert rules about what happens while nobody watches: a run that dies, lost nodes, processes without a place."""

from __future__ import annotations

from cluster.alert import PROGRESS_TIME, Alert
from cluster.panels import policy

FINISHED_TIME = "ray_spatialt2i_run_finished_time_seconds"
"""Gauge: Unix time at which a run ended well."""
REMEMBERED = "6h"
"""For how long a run counts as dead. Its series end with its driver, so nothing else tells it from one that ended."""
RESTARTS, RESTART_HOURS = 3, 3
"""At least this many new drivers within this many hours are a crash loop."""
OWN_REPLICAS = 'ray_serve_deployment_replica_healthy{application=~".*-[0-9a-f]{8}"}'
"""Replicas of a run's rewards. Those of `reward serve` and of the RayService have names without a hash."""
READ_LOG = (
    "Read the end of the job's log: `ray job logs`, or `kubectl logs` of the head. Submit the job again: it continues "
    "from its newest checkpoint."
)


def fault_alerts() -> tuple[Alert, ...]:
    """The rules about faults that end or hinder a run from outside."""
    return (_run_died(), _crash_loop(), _node_lost(), _out_of_memory(), _pending_actor(), _replicas_without_driver())


def _run_died() -> Alert:
    last = f"max by (run) (max_over_time({PROGRESS_TIME}[{REMEMBERED}]))"
    ended = f"max by (run) (max_over_time({FINISHED_TIME}[{REMEMBERED}]))"
    return Alert(
        "RunDied",
        f"({last} unless on (run) {PROGRESS_TIME}) unless on (run) ({ended} >= on (run) {last})",
        minutes=5,
        severity="critical",
        summary="{{ $labels.run }}: the driver is gone, and the run had not ended.",
        fix=f"{READ_LOG} With submit.keep=true or a RayJob this happens by itself. If you have stopped the run, do "
        "nothing.",
    )


def _crash_loop() -> Alert:
    starts, window = policy("driver_starts"), f"[{RESTART_HOURS}h]"
    newest, oldest = (f"{kind} by (run) ({kind}_over_time({starts}{window}))" for kind in ("max", "min"))
    return Alert(
        "CrashLoop",
        f"{newest} - {oldest} >= {RESTARTS}",
        minutes=1,
        severity="critical",
        summary="{{ $labels.run }}: {{ $value }} new drivers in " + f"{RESTART_HOURS} hours.",
        fix="Read the end of the log of the last two jobs: the same line in both is the cause. Stop the job until it "
        "is fixed, because each start costs the time to load the models.",
    )


def _node_lost() -> Alert:
    lost = f"{policy('actors_replaced')} + {policy('learner_restarts')}"
    gone = "count(max_over_time(ray_node_mem_total[15m]) unless ray_node_mem_total) > 0"
    return Alert(
        "NodeLost",
        f"({lost}) - min_over_time(({lost})[15m:1m]) > 0 and on () {gone}",
        minutes=2,
        severity="warning",
        summary="{{ $labels.run }}: a node has disappeared, and with it {{ $value }} of the run's processes.",
        fix="The run replaces them when there is room. See why the node is gone: `kubectl get events` or the "
        "machine's log. If it was evicted or preempted, set priority_class in cluster.render.",
    )


def _out_of_memory() -> Alert:
    return Alert(
        "OutOfHostMemory",
        "increase(ray_memory_manager_worker_eviction_total[15m]) > 0",
        minutes=1,
        severity="warning",
        summary="Ray killed {{ $value | humanize }} processes, because a node ran out of memory.",
        fix="Raise memory_per_gpu or head_memory in cluster.render, or lower the number of processes on a node. "
        "`ray logs raylet.out` on that node names the largest processes.",
    )


def _pending_actor() -> Alert:
    return Alert(
        "ActorPending",
        'sum(ray_actors{Source="gcs", State="PENDING_CREATION"}) > 0',
        minutes=15,
        severity="warning",
        summary="{{ $value }} actors or replicas have waited for a place for 15 minutes.",
        fix="`ray status` shows what they ask for. Add nodes, or lower serving.max_replicas or "
        "policy.rollout.max_actors to what there is.",
    )


def _replicas_without_driver() -> Alert:
    return Alert(
        "ReplicasWithoutDriver",
        f"sum({OWN_REPLICAS}) > 0 unless on () count({PROGRESS_TIME})",
        minutes=15,
        severity="warning",
        summary="{{ $value }} reward replicas hold GPUs, but no driver of a run is there.",
        fix="Submit the job again, which uses or replaces them, or remove them with `serve shutdown` on the head.",
    )
