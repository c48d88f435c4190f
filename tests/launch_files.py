"""The recipes of launch/, as a cluster would get them.

`render` does of kustomize what the recipes use, and is stricter: a field that it does not know, and a patch or a
replacement that changes nothing, are errors. A slow test compares it with the real one.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

LAUNCH = Path(__file__).parents[1] / "launch"
TRAINING = tuple(LAUNCH / "gke" / "train" / "overlays" / name for name in ("tpu-slice", "tpu-multislice", "gpu"))
SERVING = tuple(LAUNCH / "gke" / "serve" / "overlays" / name for name in ("store", "ray"))
OVERLAYS = (LAUNCH / "gke" / "queue", *TRAINING, *SERVING)

CLUSTER_WIDE = {"Namespace", "ClusterQueue", "ResourceFlavor"}
KNOWN = {"apiVersion", "kind", "namespace", "resources", "components", "patches", "configMapGenerator", "replacements"}

Document = dict[str, Any]


def variables(file: Path = LAUNCH / "variables" / "run.env") -> dict[str, str]:
    """What a file of NAME=VALUE lines sets."""
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def render(folder: Path) -> list[Document]:
    """The resources of a kustomization."""
    return _render(folder, [])


def _render(folder: Path, given: list[Document]) -> list[Document]:
    (plan,) = yaml.safe_load_all((folder / "kustomization.yaml").read_text())
    assert plan.keys() <= KNOWN, f"{folder}: {plan.keys() - KNOWN}"
    found = list(given)
    for name in plan.get("resources", ()):
        place = folder / name
        found += render(place) if place.is_dir() else list(yaml.safe_load_all(place.read_text()))
    for generator in plan.get("configMapGenerator", ()):
        assert generator.keys() <= {"name", "envs", "options"}
        data = {name: value for file in generator["envs"] for name, value in variables(folder / file).items()}
        assert generator["options"] == {"disableNameSuffixHash": True}
        found.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": data})
    for name in plan.get("components", ()):
        found = _render(folder / name, found)
    for patch in plan.get("patches", ()):
        assert patch.keys() == {"target", "patch"} and patch["target"].keys() == {"kind", "name"}
        targets = [
            doc for doc in found if doc["kind"] == patch["target"]["kind"] and name_of(doc) == patch["target"]["name"]
        ]
        assert len(targets) == 1, f"{folder}: the patch of {patch['target']} has {len(targets)} targets"
        for operation in yaml.safe_load(patch["patch"]):
            apply(operation, targets[0])
    for replacement in plan.get("replacements", ()):
        replace(replacement, found)
    if "namespace" in plan:
        for doc in found:
            if doc["kind"] not in CLUSTER_WIDE:
                doc["metadata"]["namespace"] = plan["namespace"]
    return found


def name_of(doc: Document) -> str:
    return doc["metadata"]["name"]


def apply(operation: Document, doc: Document) -> None:
    """One operation of a JSON patch; what is replaced or removed must be there."""
    *parents, last = operation["path"].removeprefix("/").split("/")
    place: Any = doc
    for name in parents:
        place = place[int(name) if isinstance(place, list) else name]
    value = copy.deepcopy(operation.get("value"))
    if operation["op"] == "add" and last == "-":
        place.append(value)
        return
    assert operation["op"] in ("add", "replace", "remove") and isinstance(place, dict), operation
    assert (last in place) == (operation["op"] != "add"), operation
    if operation["op"] == "remove":
        del place[last]
    else:
        place[last] = value


def replace(replacement: Document, found: list[Document]) -> None:
    """Copies a field of one resource to fields of others."""
    source = replacement["source"]
    (origin,) = [doc for doc in found if doc["kind"] == source["kind"] and name_of(doc) == source["name"]]
    value: Any = origin
    for name in source["fieldPath"].split("."):
        value = value[name]
    for target in replacement["targets"]:
        for doc in found:
            if doc["kind"] == target["select"]["kind"]:
                for path in target["fieldPaths"]:
                    *parents, last = path.split(".")
                    places = list(reached(doc, parents))
                    assert places and all(last in place for place in places), (path, name_of(doc))
                    for place in places:
                        place[last] = value


def reached(place: Any, path: list[str]) -> Iterator[Any]:
    """What a path leads to, where * stands for every item of a list."""
    if not path:
        yield place
        return
    first, *rest = path
    items = place if first == "*" else [place[int(first) if isinstance(place, list) else first]]
    for item in items:
        yield from reached(item, rest)


def pods(doc: Document) -> list[Document]:
    """The pod templates of a resource."""
    if doc["kind"] == "JobSet":
        return [job["template"]["spec"]["template"] for job in doc["spec"]["replicatedJobs"]]
    if doc["kind"] == "RayCluster":
        return [group["template"] for group in (doc["spec"]["headGroupSpec"], *doc["spec"]["workerGroupSpecs"])]
    return [doc["spec"]["template"]] if doc["kind"] == "Deployment" else []
