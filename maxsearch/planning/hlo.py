"""The collectives of a compiled program, read from its text.

A collective in a loop counts as often as the loop runs. TPU programs overlap a collective with other work by repeating
it in several fusions under one channel: each channel counts once, but for the permutes of a `shard_map`, which all have
channel 1. There a reduce-scatter is an all-reduce in a computation of the name all-reduce-scatter.
"""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from math import prod

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all", "collective-broadcast")
BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8,
    "u64": 8, "f64": 8, "c64": 8,
}  # fmt: skip

COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) .*\{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (?P<shape>\(.*?\)|\S+) (?P<op>[\w\-]+)\((?P<rest>.*)$")
CALLED = re.compile(r"\b(?:to_apply|calls|branch_computations|called_computations)=\{?([^,}\s]+(?:, ?%[^,}\s]+)*)")
LOOP = re.compile(r"condition=%?([\w.\-]+), body=%?([\w.\-]+)")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
CONSTANT = re.compile(r"= s32\[\]\S* constant\((\d+)\)")
CHANNEL = re.compile(r"channel_id=(\d+)")
ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
GROUPS = re.compile(r"replica_groups=\{\{([\d,]+)\}")
# By names: mesh['a'=2,'b'=4] {'b'}, with device_ids=(...) between them perhaps; 'b':(2)2 is a part of an axis.
MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}")
MESH_AXIS = re.compile(r"'(\w+)'=(\d+)")
GROUP_AXIS = re.compile(r"'(\w+)'(?::\(\d+\)(\d+))?")
IOTA_GROUPS = re.compile(r"replica_groups=\[(\d+),(\d+)\]")


@dataclass(frozen=True)
class Collective:
    """One collective as it stands in the text.

    Attributes:
      kind: the operation.
      size: bytes of its result on one device.
      group: how many devices take part together.
      channel: its number, empty where it has none.
    """

    kind: str
    size: int
    group: int
    channel: str


@dataclass
class Computation:
    """One computation of a program.

    Attributes:
      collectives: those in it.
      calls: (name, times) of what it calls.
      constant: the largest whole number in it, which in a loop's condition is how often it runs.
    """

    collectives: list[Collective] = field(default_factory=list)
    calls: list[tuple[str, int]] = field(default_factory=list)
    constant: int = 1


@dataclass(frozen=True)
class Traffic:
    """What collectives of one kind do in one step.

    Attributes:
      kind: the operation.
      count: how often one runs.
      result_bytes: of all their results, on one device.
      wire_bytes: what one device sends at least, by the ring algorithms.
    """

    kind: str
    count: int
    result_bytes: int
    wire_bytes: int


def sizes_of(shape: str) -> list[int]:
    """Bytes of each array in an HLO shape."""
    return [
        BYTES.get(kind, 0) * prod(int(edge) for edge in edges.split(",") if edge)
        for kind, edges in ARRAY.findall(shape)
    ]


def group_size(text: str, devices: int) -> int:
    """How many devices take part in a collective together."""
    if named := MESH_GROUPS.search(text):
        sizes = {name: int(size) for name, size in MESH_AXIS.findall(named[1])}
        return prod(int(part) if part else sizes[name] for name, part in GROUP_AXIS.findall(named[2]))
    if iota := IOTA_GROUPS.search(text):
        return int(iota[2])
    if explicit := GROUPS.search(text):
        return len(explicit[1].split(","))
    return devices


def collective_of(op: str, shape: str, rest: str, inside: str, devices: int) -> Collective | None:
    """The collective of an instruction; None when it is another operation.

    Args:
      op: its name.
      shape: of its result.
      rest: its operands and attributes.
      inside: the computation's name.
      devices: of the mesh.
    """
    kind = op.removesuffix("-start")
    if kind not in KINDS:
        return None
    sizes, group = sizes_of(shape), group_size(rest, devices)
    # An asynchronous start holds operand and result; a plain one may reduce several arrays at once.
    size = max(sizes, default=0) if op != kind else sum(sizes)
    channel = CHANNEL.search(rest)
    if kind == "all-reduce" and inside.startswith("all-reduce-scatter"):
        kind, size, channel = "reduce-scatter", size // group, None  # they all have one channel
    if kind == "collective-permute":
        channel = None
    return Collective(kind, size, group, channel[1] if channel else "")


def computations(text: str, devices: int) -> tuple[dict[str, Computation], str]:
    """Every computation of a program by name, and the entry's name."""
    found: dict[str, Computation] = {}
    loops: list[tuple[Computation, str, str, str]] = []
    entry, name, current = "", "", Computation()
    for line in text.splitlines():
        if line and not line[0].isspace():
            if head := COMPUTATION.match(line):
                name = head["name"]
                current = found.setdefault(name, Computation())
                entry = name if head["entry"] else entry
            continue
        if constant := CONSTANT.search(line):
            current.constant = max(current.constant, int(constant[1]))
        match = INSTRUCTION.match(line)
        if not match:
            continue
        collective = collective_of(match["op"], match["shape"], match["rest"], name, devices)
        if collective is not None:
            current.collectives.append(collective)
        elif loop := LOOP.search(match["rest"]):
            known = TRIPS.search(match["rest"])
            loops.append((current, loop[1], loop[2], known[1] if known else ""))
        else:
            for names in CALLED.findall(match["rest"]):
                current.calls += [(called.strip().lstrip("%"), 1) for called in names.split(",")]
    for caller, condition, body, trips in loops:
        times = int(trips) if trips else found.get(condition, Computation()).constant
        caller.calls.append((body, times))
    return found, entry


def collectives(text: str, devices: int) -> list[Traffic]:
    """The collectives of a compiled program by kind, the heaviest first.

    Args:
      text: of the optimized program (`compiled.as_text()`).
      devices: of the mesh, for collectives that name no groups.
    """
    found, entry = computations(text, devices)
    totals: dict[str, Counter[str]] = defaultdict(Counter)
    seen: set[tuple[str, str]] = set()

    def visit(name: str, times: int) -> None:
        computation = found.get(name, Computation())
        for each in computation.collectives:
            if each.channel and (each.kind, each.channel) in seen:
                continue
            seen.add((each.kind, each.channel))
            total = totals[each.kind]
            total["count"] += times
            total["bytes"] += times * each.size
            total["wire"] += times * on_the_wire(each.kind, each.size, each.group)
        for called, inner in computation.calls:
            visit(called, times * inner)

    visit(entry, 1)
    traffic = [Traffic(kind, total["count"], total["bytes"], total["wire"]) for kind, total in totals.items()]
    return sorted(traffic, key=lambda each: -each.wire_bytes)


def on_the_wire(kind: str, size: int, group: int) -> int:
    """Bytes that a device sends for a collective with a result of `size` bytes, at least."""
    if kind == "all-reduce":
        return 2 * size * (group - 1) // group
    if kind == "reduce-scatter":
        return size * (group - 1)  # the operand is `group` times the result
    if kind == "collective-permute":
        return size
    return size * (group - 1) // group
