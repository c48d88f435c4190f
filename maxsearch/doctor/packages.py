"""Installed packages against the versions that maxsearch is tested with: its own requirements, and those of jax."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distributions, metadata
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from maxsearch.doctor.finding import Finding, advice, ok, problem

# What each extra is for. Extras for those who change maxsearch stand in INTERNAL.
PURPOSES = {
    "tpu": "training on a TPU, and `plan`",
    "cuda": "training on NVIDIA GPUs",
    "serve": "`serve`",
    "beam": "`prepare --runner beam`, best in an environment of its own",
    "dataflow": "`prepare --runner beam` on Dataflow",
    "gcs": "`gs://` in place of folders",
    "milvus": "serving from Milvus",
    "ray": "serving in Ray",
    "baselines": "`evaluate --baseline st:` and `open_clip:`",
}
INTERNAL = {"dev", "docs", "peers"}

# What drives the chips of a kind, by our extra and by jax's own.
DRIVERS = {
    "libtpu": ("tpu", "tpu"),
    "jax-cuda12-plugin": ("cuda", "cuda12"),
    "jax-cuda13-plugin": ("cuda", "cuda13"),
}


@dataclass(frozen=True)
class Packages:
    """What is installed, and what is asked for.

    Attributes:
      python: the interpreter's version.
      requires_python: the versions that maxsearch takes; empty where it is not installed.
      installed: versions by canonical name.
      requirements: those of maxsearch, extras included; None where it is not installed.
      extras: the extras of maxsearch.
      of_jax: those of the installed jax, extras included.
    """

    python: str
    requires_python: str
    installed: Mapping[str, str]
    requirements: Sequence[str] | None
    extras: Sequence[str]
    of_jax: Sequence[str]

    @classmethod
    def read(cls) -> "Packages":
        """Of this environment."""
        installed: dict[str, str] = {}
        for one in distributions():  # the first on the path is the one that is imported
            if one.metadata["Name"]:
                installed.setdefault(canonicalize_name(one.metadata["Name"]), one.version)
        ours, of_jax = _described("maxsearch"), _described("jax")
        return cls(
            python=".".join(map(str, sys.version_info[:3])),
            requires_python=ours["Requires-Python"] or "" if ours else "",
            installed=installed,
            requirements=ours.get_all("Requires-Dist") or () if ours else None,
            extras=ours.get_all("Provides-Extra") or () if ours else (),
            of_jax=of_jax.get_all("Requires-Dist") or () if of_jax else (),
        )

    def wanted(self, requirements: Sequence[str], extra: str = "") -> list[Requirement]:
        """The requirements that hold here: without an extra those of the core, else those that the extra adds."""
        environment = {"python_version": ".".join(self.python.split(".")[:2]), "python_full_version": self.python}
        found = []
        for one in map(Requirement, requirements):
            here = one.marker is None or one.marker.evaluate({**environment, "extra": extra})
            core = one.marker is None or one.marker.evaluate({**environment, "extra": ""})
            if here and core == (not extra):
                found.append(one)
        return found

    def wrong(self, requirement: Requirement) -> str | None:
        """What is wrong with a requirement here; None when it is met."""
        version = self.installed.get(canonicalize_name(requirement.name))
        if version is None:
            return f"{requirement.name} is not installed"
        if not requirement.specifier.contains(version, prereleases=True):
            return f"{requirement.name} {version} is not {requirement.specifier}"
        return None


def check_packages(packages: Packages) -> list[Finding]:
    """Python, the core packages, and what jax asks of its own."""
    if packages.requirements is None:
        return [
            problem(
                "packages",
                "maxsearch is imported from a folder and is not installed, so that its pins are not known",
                "pip install -e . in the checkout",
            )
        ]
    found = [_python(packages)]
    wanted = packages.wanted(packages.requirements)
    wrong = {one.name: why for one in wanted if (why := packages.wrong(one))}
    pins = {one.name: f"'{one.name}{one.specifier}'" for one in wanted}
    found += [problem("packages", why, f"pip install {pins[name]}") for name, why in wrong.items()]
    if not wrong:
        found.append(ok("packages", f"all {len(wanted)} required packages are in the tested ranges"))
    return [*found, _pair(packages)]


def _python(packages: Packages) -> Finding:
    required = Requirement(f"python{packages.requires_python}").specifier
    if not required.contains(packages.python, prereleases=True):
        return problem("python", f"Python {packages.python} is not {required}", "make an environment of such a Python")
    return ok("python", f"Python {packages.python}")


def _pair(packages: Packages) -> Finding:
    """Whether jaxlib is one that this jax takes; it and flax are pinned together by our own requirements."""
    named = {name: packages.installed.get(name) for name in ("jax", "jaxlib", "flax")}
    told = ", ".join(f"{name} {version or 'absent'}" for name, version in named.items())
    needed = [one for one in packages.wanted(packages.of_jax) if canonicalize_name(one.name) == "jaxlib"]
    for one in needed:
        if why := packages.wrong(one):
            return problem("jax", f"{why}, which jax {named['jax']} asks for", f"pip install 'jaxlib=={named['jax']}'")
    return ok("jax", told)


def check_extras(packages: Packages) -> list[Finding]:
    """A line for each extra: what it is for, whether it is there, and what of it is outside of the tested ranges."""
    found = []
    for extra in packages.extras:
        if extra in INTERNAL:
            continue
        purpose = f", for {PURPOSES[extra]}" if extra in PURPOSES else ""
        wanted = _of_extra(packages, extra)
        missing = sorted({one.name for one in wanted if canonicalize_name(one.name) not in packages.installed})
        wrong = [why for one in wanted if one.name not in missing and (why := packages.wrong(one))]
        name, install = f"extra {extra}", f"pip install 'maxsearch[{extra}]'"
        if missing:
            found.append(ok(name, f"absent ({', '.join(missing)}){purpose}: {install}"))
        elif wrong:
            found.append(problem(name, f"{'; '.join(wrong)}{purpose}", install))
        else:
            found.append(ok(name, f"present{purpose}"))
    return found


def _of_extra(packages: Packages, extra: str) -> list[Requirement]:
    """What an extra adds; of jax, which is there in any case, what its own extra adds."""
    wanted = packages.wanted(packages.requirements or (), extra)
    added = [one for one in wanted if one.name != "jax"]
    for one in wanted:
        if one.name == "jax":
            for of_jax in one.extras:
                added += [other for other in packages.wanted(packages.of_jax, of_jax) if other.name != "jaxlib"]
    return added


def check_drivers(packages: Packages, chips: Mapping[str, int]) -> list[Finding]:
    """Whether what drives the machine's chips is installed, in the version that this jax was built with.

    Args:
      packages: what is installed.
      chips: how many device files of each kind ("tpu", "cuda") the machine has.
    """
    found, driven = [], set()
    for name, (kind, of_jax) in DRIVERS.items():
        if name not in packages.installed:
            continue
        driven.add(kind)
        pins = [one for one in packages.wanted(packages.of_jax, of_jax) if canonicalize_name(one.name) == name]
        wrong = next((why for one in pins if (why := packages.wrong(one))), None)
        if wrong:
            built = f"{wrong}, which jax {packages.installed.get('jax')} was built with"
            found.append(problem(name, built, f"pip install 'maxsearch[{kind}]'"))
        else:
            found.append(ok(name, f"{packages.installed[name]}, with {chips.get(kind, 0)} device files of its chips"))
    for kind, count in chips.items():
        if count and kind not in driven:
            lack = (
                f"the machine has {count} device files of {kind} chips and nothing that drives them: JAX takes the CPU"
            )
            found.append(advice(kind, lack, f"pip install 'maxsearch[{kind}]'"))
    return found


def _described(name: str) -> Any:
    """What a distribution says of itself, a PackageMetadata; None where it is not installed."""
    try:
        return metadata(name)
    except PackageNotFoundError:
        return None
