"""A Ray cluster, joined or started, and the deployments of the shards of one folder on it.

Ray is told to send no usage reports, and runs neither its dashboard nor Serve's own HTTP proxy: the service is the
front. Between its own processes Ray sends pickled messages; whoever can reach the cluster's ports can run code in it.
"""

import hashlib
import logging
import os
import time
from pathlib import Path
from typing import Any

from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.serving.engines.ray.options import RayOptions
from maxsearch.serving.engines.ray.replica import Replica

OBJECT_STORE = 100 << 20
"""Bytes of shared memory of a local cluster: messages are small and go without it."""
SPARE_CPUS = 2


def join(options: RayOptions, shards: int) -> None:
    """Joins the cluster, or starts one, unless this process is in one already.

    Raises:
      UsageError: Ray is not installed.
      MaxsearchError: there is no cluster at the address, or none could be started.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when Ray is imported
    try:
        import ray
        from ray import serve
    except ImportError:
        raise UsageError("--engine ray needs the extra of the same name: pip install 'maxsearch[ray]'") from None
    if not ray.is_initialized():
        start: dict[str, Any] = {}
        if options.address == "local":
            cpus = int(-(-shards * options.replicas * options.cpus // 1)) + SPARE_CPUS
            start = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": OBJECT_STORE}
        start |= {"address": options.address, "log_to_driver": False, "logging_level": logging.ERROR}
        try:
            try:
                ray.init(**start)
            except Exception:
                if options.address != "local":
                    raise
                ray.shutdown()  # Ray gives its processes seconds to start, which a busy machine may need more of
                ray.init(**start)
        except Exception as error:  # Ray raises whatever it meets
            raise MaxsearchError(
                f"--ray.address {options.address}: no Ray cluster answers there or could be started "
                f"({str(error).splitlines()[0]}): see `ray status`, or give --ray.address local"
            ) from None
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR"})


def deploy(folder: Path, shards: int, options: RayOptions) -> list[Any]:
    """Deploys each shard, unless it runs on this cluster already, and waits until all answer.

    Returns:
      The handle of each shard's deployment.

    Raises:
      MaxsearchError: a shard cannot be opened, or the cluster has no room for it.
    """
    from ray import serve
    from ray.serve.schema import ApplicationStatus

    names = [f"maxsearch-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}-{shard}" for shard in range(shards)]
    running = {
        name for name, one in serve.status().applications.items() if one.status is not ApplicationStatus.DEPLOY_FAILED
    }
    targets = [
        serve.RunTarget(
            target=serve.deployment(
                name="shard",
                num_replicas=options.replicas,
                max_ongoing_requests=options.concurrent,
                health_check_period_s=1,
                health_check_timeout_s=30,
                graceful_shutdown_timeout_s=5,
                ray_actor_options={"num_cpus": options.cpus},
                logging_config={"log_level": "ERROR"},
            )(Replica).bind(str(folder), shard),
            name=name,
            route_prefix=None,
        )
        for shard, name in enumerate(names)
        if name not in running
    ]
    if targets:
        try:
            serve.run_many(targets, wait_for_applications_running=False)
        except Exception as error:
            raise MaxsearchError(f"the shards cannot be deployed: {str(error).splitlines()[0]}") from None
    await_running(names, options)
    return [serve.get_app_handle(name) for name in names]


def await_running(names: list[str], options: RayOptions) -> None:
    """Waits until these applications run.

    Raises:
      MaxsearchError: one failed, or took too long.
    """
    from ray import serve
    from ray.serve.schema import ApplicationStatus

    until = time.monotonic() + options.start_timeout
    while True:
        found = serve.status().applications
        states = {name: found[name] for name in names if name in found}
        failed = [one for one in states.values() if one.status is ApplicationStatus.DEPLOY_FAILED]
        if failed:
            said = failed[0].message or next(iter(failed[0].deployments.values())).message
            reason = next((line for line in reversed(said.strip().splitlines()) if line.strip()), "it does not say why")
            raise MaxsearchError(f"a shard cannot be opened: {reason.strip()}")
        if len(states) == len(names) and all(one.status is ApplicationStatus.RUNNING for one in states.values()):
            return
        if time.monotonic() > until:
            raise MaxsearchError(
                f"the shards did not all open within {options.start_timeout:g} s: see `ray status` for free cores, "
                "lower --ray.cpus or --ray.replicas, or raise --ray.start-timeout"
            )
        time.sleep(0.1)
