"""Writes THIRD_PARTY_NOTICES.md: what maxsearch needs at run time, in which versions, under which licences.

python .ci/notices.py

The packages come from pyproject.toml, their licences from what is installed. What need not be installed for that is
named in STATED.
"""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
NOTICES = ROOT / "THIRD_PARTY_NOTICES.md"
INTERNAL = {"dev", "docs", "peers"}  # for those who change maxsearch

# SPDX identifiers of licences that may stand beside Apache-2.0 in a program that is passed on.
COMPATIBLE = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "HPND", "ISC", "MIT", "MIT-CMU"),
    *("MPL-2.0", "PSF-2.0", "Unlicense", "Zlib"),
}

# Distributions that state their licence in words, and those that only extras need. From their own metadata.
STATED = {
    "apache-beam": "Apache-2.0",
    "gcsfs": "BSD-3-Clause",
    "grain": "Apache-2.0",
    "jaxtyping": "MIT",
    "matplotlib": "PSF-2.0",
    "milvus-lite": "Apache-2.0",
    "open-clip-torch": "MIT",
    "pymilvus": "Apache-2.0",
    "pystemmer": "MIT AND BSD-3-Clause",
    "ray": "Apache-2.0",
    "sentence-transformers": "Apache-2.0",
    "torch": "Apache-2.0 AND Apache-2.0 WITH LLVM-exception AND BSD-2-Clause AND BSD-3-Clause AND BSL-1.0 AND MIT",
}
IN_WORDS = {
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: BSD License": "BSD-3-Clause",
    "License :: OSI Approved :: MIT License": "MIT",
}

HEAD = """# Third-party notices

maxsearch is under Apache-2.0 ([LICENSE](LICENSE)). These packages are installed beside it, are no part of it and stay
under their own licences. `python .ci/notices.py` wrote this page from `pyproject.toml` and the packages' metadata;
packages that they need in their turn are not listed.

The extras `tpu` and `cuda` also install libtpu (Google) and the CUDA libraries (NVIDIA), which are not open source and
come under their makers' terms.

| package | versions | licence | for |
|---|---|---|---|
"""


def licence_of(name: str) -> str:
    """The SPDX expression of a package's licence.

    Raises:
      SystemExit: neither its metadata nor STATED tell one.
    """
    name = canonicalize_name(name)
    if name in STATED:
        return STATED[name]
    try:
        told = metadata(name)
    except PackageNotFoundError:
        raise SystemExit(f"{name} is not installed: install it, or name its licence in STATED") from None
    if told["License-Expression"]:
        return told["License-Expression"]
    words = [told["License"] or "", *(one for one in told.get_all("Classifier") or () if one.startswith("License"))]
    for one in words:
        if one in COMPATIBLE or one in IN_WORDS:
            return IN_WORDS.get(one, one)
    raise SystemExit(f"{name} tells no licence that this script can read: name it in STATED")


def identifiers(expression: str) -> set[str]:
    """The licences of an SPDX expression."""
    return set(re.split(r" AND | OR | WITH [\w.-]+|[()]", expression)) - {""}


def requirements() -> dict[tuple[str, str], str]:
    """Version ranges by package and the extra that needs it ("" for all of maxsearch)."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: dict[tuple[str, str], str] = {}
    for extra, lines in {"": project["dependencies"], **project["optional-dependencies"]}.items():
        for one in map(Requirement, lines if extra not in INTERNAL else ()):
            place = one.name + (f"[{','.join(sorted(one.extras))}]" if one.extras else ""), extra
            marker = re.search(r"python_version [<>=]+ '[\d.]+'", str(one.marker).replace('"', "'"))
            versions = f"{one.specifier}{f' ({marker[0]})' if marker else ''}"
            found[place] = f"{found[place]}, {versions}" if place in found else versions
    return found


def told(versions: str) -> str:
    """Version ranges for people."""
    return versions.replace("python_version", "Python").replace("'", "")


def rows() -> list[str]:
    """The table's rows."""
    found = sorted(requirements().items(), key=lambda item: (item[0][1], item[0][0].lower()))
    return [
        f"| {name} | {told(versions)} | {licence_of(name.partition('[')[0])} | {extra} |"
        for (name, extra), versions in found
    ]


if __name__ == "__main__":
    NOTICES.write_text(HEAD + "\n".join(rows()) + "\n")
