"""What a rerun needs: the training data's manifest, the resolved config, and on what it all ran."""

from typing import Any

from maxsearch.config import Config
from maxsearch.html.markup import table, text
from maxsearch.html.words import number
from maxsearch.report.inputs.collect import Inputs
from maxsearch.report.sections import part
from maxsearch.report.words import shown
from maxsearch.training.run_folder import differences

PREPARE = "maxsearch prepare --products ... --interactions ... --out DATA"
NOT_RECORDED = "not recorded"


def data(inputs: Inputs) -> part.Part:
    """The section of the training data."""
    title, found = "Training data", inputs.manifests
    if not found:
        note = f'<p class="missing">{text(inputs.no_manifest)}</p>'
        return part.Part("data", title, note + part.missing("Such a folder is made by", PREPARE, "--data DATA"))
    names = list(dict.fromkeys(name for one in found.values() for name in manifest_lines(one)))
    tables = {name: manifest_lines(one) for name, one in found.items()}
    lines = [(name, [tables[one].get(name, "\u2013") for one in tables]) for name in names]
    return part.Part("data", title, f'<div class="settings">{table("", list(found), lines)}</div>')


def manifest_lines(manifest: dict[str, Any]) -> dict[str, str]:
    """What a manifest says, in words; no text of the data."""
    products, pairs, keywords = manifest["products"], manifest["interactions"], manifest["keywords"]
    rejected = manifest.get("rejected") or {}
    reasons = {**(rejected.get("by_reason") or {}), **(rejected.get("images") or {})}
    lines = {
        "products": number(products["count"]),
        "pairs of query and product": number(pairs["count"]),
        "distinct queries": _number(pairs.get("queries")),
        "sum of the pairs' weights": _number(pairs.get("total_weight")),
        "keywords": _number(keywords.get("count")),
        "size": f"{sum(part.get('bytes') or 0 for part in (products, pairs)) / 1e6:,.1f} MB",
        "shards": number(len(products["shards"]) + len(pairs["shards"])),
        "longest side of a picture": f"{_number(manifest.get('image_edge'))} pixels",
        "attributes": shown(manifest.get("attributes")),
        "rows rejected": ", ".join(f"{name} {_number(count)}" for name, count in reasons.items()) or "none",
        "written by": shown(manifest.get("created_by")),
        "schema version": shown(manifest.get("schema_version")),
        "fingerprint (SHA-256)": manifest["fingerprint"],
    }
    return {name: value for name, value in lines.items() if value != "\u2013"}


def config(inputs: Inputs) -> part.Part:
    """The section of the resolved config."""
    own = inputs.run.config
    changed = differences(Config().to_json(), own.to_json())
    lines = [(name, [shown(new), shown(old)]) for name, old, new in changed]
    body = f"<h3>What differs from the defaults</h3>{table('setting', ('this run', 'default'), lines)}"
    groups: dict[str, list[tuple[str, list[str]]]] = {}
    for name, value in flat(own.to_json()).items():
        groups.setdefault(name.partition(".")[0], []).append((name, [shown(value)]))
    every = "".join(table(group, ("value",), rows) for group, rows in groups.items())
    fingerprint = f"SHA-256 of every value: {own.fingerprint()}"
    body += f"<details><summary>Every setting</summary>{every}</details>{part.said(fingerprint)}"
    return part.Part("config", "Resolved config", f'<div class="settings">{body}</div>')


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """A JSON value's leaves by dotted name; a list is a leaf."""
    if not isinstance(value, dict):
        return {prefix: value}
    found: dict[str, Any] = {}
    for name, one in value.items():
        found |= flat(one, f"{prefix}.{name}" if prefix else name)
    return found


def surroundings(inputs: Inputs) -> part.Part:
    """The section of what the run and this report ran on."""
    columns = {_process(one): environment_lines(one) for one in inputs.run.processes}
    columns["this report"] = environment_lines(inputs.here)
    names = list(dict.fromkeys(name for one in columns.values() for name in one))
    lines = [(name, [one.get(name, NOT_RECORDED) for one in columns.values()]) for name in names]
    note = "" if inputs.run.processes else part.said("The run is of a version that did not note on what it ran.")
    return part.Part(
        "environment", "Environment", f'{note}<div class="settings">{table("", list(columns), lines)}</div>'
    )


def environment_lines(found: dict[str, Any]) -> dict[str, str]:
    """An environment in words."""
    devices, git = found.get("devices"), found.get("git")
    packages = found.get("packages")
    lines = {"written by": found.get("created_by"), "Python": found.get("python"), "platform": found.get("platform")}
    lines["CPUs"] = found.get("cpu_count")
    if isinstance(devices, dict):
        count, processes = devices.get("count"), devices.get("processes")
        several = f", {processes} processes" if isinstance(processes, int) and processes > 1 else ""
        lines["devices"] = f"{shown(count)} x {shown(devices.get('kind'))}{several}"
    if isinstance(git, dict):
        lines["git commit"] = f"{shown(git.get('commit'))}{' with changes' if git.get('changed') else ''}"
    if isinstance(packages, dict):
        lines |= packages
    return {name: shown(value) for name, value in lines.items() if value is not None}


def _process(one: dict[str, Any]) -> str:
    step = one.get("from_step")
    return f"run, from step {number(step)}" if isinstance(step, int) and step else "run"


def _number(value: Any) -> str:
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else "\u2013"
