"""Strict schemas of what Kubernetes does not know by itself: JobSet, Kueue, KubeRay. They hold the fields that the
recipes use and refuse every other, so that a misspelt one fails. What Kubernetes knows lies within them and is checked
by kubernetes-validate.

Sources: the API references of JobSet v1alpha2, Kueue v1beta1 and KubeRay v1.
"""

import json
from functools import cache
from typing import Any

import jsonschema
import kubernetes_validate

VERSION = "1.33"

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
TEXTS: Schema = {"type": "array", "items": TEXT, "minItems": 1}
NAMES: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
COUNT: Schema = {"type": "integer", "minimum": 0}
FLAG: Schema = {"type": "boolean"}
TEMPLATE: Schema = {"type": "object"}  # checked on its own


def record(required: str = "", **fields: Schema) -> Schema:
    """An object with these fields and no other."""
    return {"type": "object", "properties": fields, "required": required.split(), "additionalProperties": False}


def several(item: Schema) -> Schema:
    return {"type": "array", "items": item, "minItems": 1}


def one_of(*values: str) -> Schema:
    return {"enum": list(values)}


METADATA = record("name", name=TEXT, namespace=TEXT, labels=NAMES, annotations=NAMES)


def resource(spec: Schema) -> Schema:
    return record("apiVersion kind metadata spec", apiVersion=TEXT, kind=TEXT, metadata=METADATA, spec=spec)


JOB_FAILURES = one_of(
    "BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes", "MaxFailedIndexesExceeded", "PodFailurePolicy"
)
FAILURE_RULE = record(
    "action",
    name=TEXT,
    action=one_of("FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts", "RecreateJob"),
    onJobFailureReasons=several(JOB_FAILURES),
    targetReplicatedJobs=TEXTS,
)
JOB_SET = record(
    "replicatedJobs",
    suspend=FLAG,
    network=record(enableDNSHostnames=FLAG, subdomain=TEXT, publishNotReadyAddresses=FLAG),
    failurePolicy=record(
        maxRestarts=COUNT, restartStrategy=one_of("Recreate", "BlockingRecreate"), rules=several(FAILURE_RULE)
    ),
    replicatedJobs=several(record("name template", name=TEXT, replicas=COUNT, template=TEMPLATE)),
    ttlSecondsAfterFinished=COUNT,
)

QUOTA = record("name nominalQuota", name=TEXT, nominalQuota={"type": ["integer", "string"]})
CLUSTER_QUEUE = record(
    "resourceGroups",
    namespaceSelector=record(matchLabels=NAMES),
    queueingStrategy=one_of("StrictFIFO", "BestEffortFIFO"),
    preemption=record(withinClusterQueue=one_of("Never", "LowerPriority", "LowerOrNewerEqualPriority")),
    resourceGroups=several(
        record(
            "coveredResources flavors",
            coveredResources=TEXTS,
            flavors=several(record("name resources", name=TEXT, resources=several(QUOTA))),
        )
    ),
)

WORKERS = record(
    "groupName rayStartParams template",
    groupName=TEXT,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    rayStartParams=NAMES,
    template=TEMPLATE,
)
RAY_CLUSTER = record(
    "headGroupSpec",
    rayVersion=TEXT,
    headGroupSpec=record("rayStartParams template", rayStartParams=NAMES, template=TEMPLATE),
    workerGroupSpecs=several(WORKERS),
)

SCHEMAS = {
    ("jobset.x-k8s.io/v1alpha2", "JobSet"): resource(JOB_SET),
    ("kueue.x-k8s.io/v1beta1", "ClusterQueue"): resource(CLUSTER_QUEUE),
    ("kueue.x-k8s.io/v1beta1", "LocalQueue"): resource(record("clusterQueue", clusterQueue=TEXT)),
    ("kueue.x-k8s.io/v1beta1", "ResourceFlavor"): resource(record(nodeLabels=NAMES)),
    ("ray.io/v1", "RayCluster"): resource(RAY_CLUSTER),
}


def require_valid(doc: dict[str, Any]) -> None:
    """Raises jsonschema.ValidationError for a resource that a cluster would refuse, or that has an unknown field."""
    schema = SCHEMAS.get((doc["apiVersion"], doc["kind"]))
    if schema is not None:
        jsonschema.validate(doc, schema)
    for part in [doc] if schema is None else parts_of(doc):
        require_known(json.dumps(part))


@cache
def require_known(text: str) -> None:
    """Checks a resource of Kubernetes itself, given as JSON; what was found valid once is not checked again."""
    kubernetes_validate.validate(json.loads(text), VERSION, strict=True)


def parts_of(doc: dict[str, Any]) -> list[dict[str, Any]]:
    """What lies within a resource that Kubernetes knows: jobs of a JobSet, pods of a RayCluster."""
    metadata, spec = {"name": "part"}, doc["spec"]
    if doc["kind"] == "JobSet":
        return [
            {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, **job["template"]}
            for job in spec["replicatedJobs"]
        ]
    if doc["kind"] == "RayCluster":
        templates = [group["template"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]
        return [{"apiVersion": "v1", "kind": "Pod", "metadata": metadata, **template} for template in templates]
    return []
