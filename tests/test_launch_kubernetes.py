"""The recipes for Kubernetes: each field is known, and what several places say agrees."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml")
pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed: pip install -e '.[dev]'")

from jsonschema import ValidationError  # noqa: E402

from tests.launch_files import LAUNCH, OVERLAYS, SERVING, TRAINING, name_of, pods, render, variables  # noqa: E402
from tests.launch_schemas import require_valid  # noqa: E402


def by_kind(folder: Path) -> dict[str, dict]:
    return {doc["kind"]: doc for doc in render(folder)}


def job_of(folder: Path) -> tuple[dict, dict, dict]:
    """The replicated job of a recipe for training, its pod and its container."""
    (job,) = by_kind(folder)["JobSet"]["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return job, pod, container


@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda folder: folder.name)
def test_every_field_is_known(folder):
    for doc in render(folder):
        require_valid(doc)


@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("gke/train/base/jobset.yaml", "maxRestarts:", "maxRestart:"),
        ("gke/train/base/jobset.yaml", "RestartJobSetAndIgnoreMaxRestarts", "RestartJobsetAndIgnoreMaxRestarts"),
        (
            "gke/train/base/jobset.yaml",
            "replicatedJobs:\n    - name: slice\n      replicas:",
            "replicatedJobs:\n    - name: slice\n      replica:",
        ),
        ("gke/train/base/jobset.yaml", "backoffLimit:", "backofLimit:"),
        ("gke/train/base/jobset.yaml", "onExitCodes:", "onExitCode:"),
        ("gke/train/base/jobset.yaml", "terminationGracePeriodSeconds:", "terminationGracePeriod:"),
        ("gke/queue/queues.yaml", "nominalQuota: 32", "quota: 32"),
        ("gke/queue/queues.yaml", "clusterQueue:", "clusterqueue:"),
        ("gke/serve/base/deployment.yaml", "startupProbe:", "startProbe:"),
        ("gke/serve/base/deployment.yaml", "failureThreshold: 2", "failureTreshold: 2"),
        ("gke/serve/base/scaling.yaml", "averageUtilization:", "averageUtilisation:"),
        ("gke/serve/base/scaling.yaml", "maxUnavailable: 1", "maxUnavailable: {}"),
        ("gke/serve/overlays/ray/cluster.yaml", "workerGroupSpecs:", "workersGroupSpecs:"),
        ("gke/serve/overlays/ray/cluster.yaml", "replicas: 4", "replicas: four"),
        ("gke/serve/overlays/ray/cluster.yaml", "mountPath: /store", "path: /store"),
        ("gke/train/overlays/gpu/kustomization.yaml", "spec/nodeSelector", "spec/nodeSelectors"),
        ("gke/train/overlays/gpu/kustomization.yaml", "name: maxsearch-train", "name: maxsearch-trein"),
        ("variables/kustomization.yaml", "containers.*.image", "containers.*.picture"),
    ],
)
def test_a_misspelt_field_fails(tmp_path, file, right, wrong):
    launch = tmp_path / "launch"
    shutil.copytree(LAUNCH, launch)
    text = (launch / file).read_text()
    assert right in text
    (launch / file).write_text(text.replace(right, wrong, 1))
    with pytest.raises((ValidationError, AssertionError, KeyError)):
        for folder in OVERLAYS:
            for doc in render(launch / folder.relative_to(LAUNCH)):
                require_valid(doc)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("kubectl"), reason="needs kubectl, which has kustomize in it")
@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda folder: folder.name)
def test_kustomize_renders_the_same(folder):
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=True)
    key = lambda doc: (doc["kind"], name_of(doc))  # noqa: E731
    assert sorted(yaml.safe_load_all(done.stdout), key=key) == sorted(render(folder), key=key)


@pytest.mark.parametrize("folder", (*TRAINING, *SERVING), ids=lambda folder: folder.name)
def test_no_pod_runs_as_root_or_with_an_image_that_nobody_named(folder):
    found = variables()
    for doc in render(folder):
        for pod in pods(doc):
            assert pod["spec"]["securityContext"]["runAsNonRoot"]
            for container in pod["spec"]["containers"]:
                assert not container["securityContext"]["allowPrivilegeEscalation"]
                assert container["image"] == found["IMAGE" if doc["kind"] == "JobSet" else "SERVE_IMAGE"]
                assert {"requests", "limits"} == container["resources"].keys()


@pytest.mark.parametrize("folder", TRAINING, ids=lambda folder: folder.name)
def test_a_stopped_run_begins_again_and_a_failing_one_does_so_five_times(folder):
    job, pod, container = job_of(folder)
    spec = job["template"]["spec"]
    stopped = spec["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert stopped["containerName"] == container["name"]
    assert f"--stopped-exit-code {stopped['values'][0]}" in (LAUNCH / "entry.sh").read_text()
    # Kubernetes applies the policy only to pods that are never restarted in place.
    assert pod["restartPolicy"] == "Never" and spec["backoffLimit"] == 0
    policy = by_kind(folder)["JobSet"]["spec"]["failurePolicy"]
    assert (policy["maxRestarts"], policy["restartStrategy"]) == (5, "Recreate")
    assert spec["completions"] == spec["parallelism"]


@pytest.mark.parametrize("folder", TRAINING, ids=lambda folder: folder.name)
def test_the_queue_has_room_for_the_chips_and_they_are_those_of_the_topology(folder):
    job, pod, container = job_of(folder)
    hosts = job["template"]["spec"]["parallelism"]
    ((chip, count),) = [(k, v) for k, v in container["resources"]["limits"].items() if k not in ("cpu", "memory")]
    queue = by_kind(LAUNCH / "gke" / "queue")["ClusterQueue"]
    label = by_kind(folder)["JobSet"]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    assert by_kind(LAUNCH / "gke" / "queue")["LocalQueue"]["metadata"]["name"] == label
    quotas = {
        quota["name"]: quota["nominalQuota"]
        for group in queue["spec"]["resourceGroups"]
        for flavor in group["flavors"]
        for quota in flavor["resources"]
    }
    assert job["replicas"] * hosts * count <= quotas[chip]
    topology = pod["nodeSelector"].get("cloud.google.com/gke-tpu-topology")
    if topology is not None:
        sides = [int(side) for side in topology.split("x")]
        assert hosts * count == sides[0] * sides[1]
    flavors = [doc for doc in render(LAUNCH / "gke" / "queue") if doc["kind"] == "ResourceFlavor"]
    assert any(doc["spec"]["nodeLabels"].items() <= pod["nodeSelector"].items() for doc in flavors)


def test_hosts_with_gpus_are_told_their_places():
    docs, (job, _, container) = by_kind(TRAINING[-1]), job_of(TRAINING[-1])
    told = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert told["MAXSEARCH_PROCESSES"] == str(job["replicas"] * job["template"]["spec"]["parallelism"])
    name = name_of(docs["JobSet"])
    assert told["MAXSEARCH_COORDINATOR"].split(":")[0] == f"{name}-{job['name']}-0-0.{name}"
    assert job["template"]["spec"]["completionMode"] == "Indexed"


@pytest.mark.parametrize("folder", SERVING, ids=lambda folder: folder.name)
def test_a_replica_has_time_to_drain_and_probes_that_the_service_answers(folder):
    docs = by_kind(folder)
    pod = docs["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    waits = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] >= waits + int(variables()["DRAIN_SECONDS"]) + 5
    routes = (LAUNCH.parent / "maxsearch/serving/http/health_routes.py").read_text()
    for probe, path in (("startupProbe", "/readyz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")):
        assert container[probe]["httpGet"]["path"] == path
        assert f'router.get("{path}"' in routes
    (port,) = container["ports"]
    assert f"--port {port['containerPort']}" in (LAUNCH / "entry.sh").read_text()
    (service,) = docs["Service"]["spec"]["ports"]
    assert service["targetPort"] == port["name"] == container["readinessProbe"]["httpGet"]["port"]
    labels = docs["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert docs["Service"]["spec"]["selector"] == labels
    assert docs["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert docs["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == name_of(docs["Deployment"])
    # Many replicas read a store that one host writes: none may hold the key to change it.
    keys = {entry["name"] for entry in container["env"] if "secretKeyRef" in entry.get("valueFrom", {})}
    assert keys == {"MAXSEARCH_READ_KEY"}
    assert all(mount.get("readOnly") for mount in container["volumeMounts"] if mount["name"] == "store")


def test_the_ray_head_that_replicas_ask_is_that_of_the_cluster():
    docs = by_kind(SERVING[-1])
    (container,) = docs["Deployment"]["spec"]["template"]["spec"]["containers"]
    told = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert told["RAY_HEAD"] == f"{name_of(docs['RayCluster'])}-head-svc:6379"  # KubeRay's name for the head's service
    (pin,) = [line for line in (LAUNCH.parent / "pyproject.toml").read_text().splitlines() if line.startswith("ray = ")]
    assert docs["RayCluster"]["spec"]["rayVersion"].startswith(re.search(r">=([\d.]+)", pin).group(1))
