"""A plan for people: a table, a verdict, and what to change where it does not fit."""

from rich.console import Console
from rich.table import Table

from maxsearch.chips import GIB
from maxsearch.config import Config
from maxsearch.planning.plan import Plan


def print_plan(plan: Plan, console: Console | None = None) -> None:
    """Prints a plan's table, its verdict and its advice."""
    console = console or Console()
    console.print(table_of(plan))
    console.print(verdict(plan), highlight=False)
    for line in advice(plan):
        console.print(f"- {line}", highlight=False)


def table_of(plan: Plan) -> Table:
    """The figures of a plan."""
    chip = plan.topology.chip
    slices = f" x {plan.topology.slices} slices" if plan.topology.slices > 1 else ""
    doing = "training" if plan.job == "train" else "embedding"
    title = f"{doing} {plan.config.name} on {plan.topology.name}{slices}: {plan.topology.chips:,} chips"
    table = Table(title=title, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    sizes = ", ".join(f"{name} {size}" for name, size in plan.mesh.items())
    cut = f" in {plan.config.train.microbatches} parts" if plan.config.train.microbatches > 1 else ""
    rows = [
        ("parameters", f"{plan.parameters / 1e6:,.1f} M"),
        ("mesh", sizes),
        ("global batch", f"{plan.config.data.batch_size:,}{cut}"),
    ]
    if plan.memory is not None:
        rows += [
            ("memory of a device: peak", gib(plan.memory.peak)),
            ("  arguments", gib(plan.memory.arguments)),
            ("  temporaries", gib(plan.memory.temporaries)),
        ]
    rows += [
        ("its HBM", gib(plan.hbm)),
        ("model FLOPs of a step", f"{plan.flops / 1e15:,.3f} PFLOP"),
    ]
    for each in plan.traffic:
        sent = f"{each.count:,} x, {each.wire_bytes / 1e9:,.3f} GB sent per device"
        rows.append((f"collectives: {each.kind}", sent))
    for name, milliseconds in plan.bounds.items():
        rows.append((f"a step takes at least, by {name}", f"{milliseconds:,.1f} ms"))
    rate = plan.config.data.batch_size / max(plan.bounds.values()) * 1000
    rows.append((f"{'examples' if plan.job == 'train' else 'products'} per second, at most", f"{rate:,.0f}"))
    rows.append(("compiled in", f"{plan.compile_seconds:,.0f} s for {chip.name}"))
    for row in rows:
        table.add_row(*row)
    return table


def gib(size: int) -> str:
    """Bytes as GiB."""
    return f"{size / GIB:,.2f} GiB"


def verdict(plan: Plan) -> str:
    """Whether it fits, in a sentence."""
    if plan.memory is None:
        return f"It does not fit: {plan.refusal}"
    share = f"{100 * plan.memory.peak / plan.hbm:.0f} % of the memory"
    return f"It fits: the peak is {share}." if plan.fits else f"It does not fit: the peak is {share}."


def advice(plan: Plan) -> list[str]:
    """What makes a plan fit that does not, in the order of what it costs."""
    if plan.fits:
        return []
    if plan.job == "embed":
        return [f"--data.batch-size {plan.config.data.batch_size // 2}"]
    config, found = plan.config, []
    if not config.loss.ring:
        found.append("--loss.ring: no device then holds the matrix of all pairs")
    if config.model.remat != "full":
        found.append("--model.remat full: blocks are computed again in the backward pass, a third more work")
    if config.train.microbatches == 1:
        found.append("--train.microbatches 4: activations of a quarter of the batch at a time, one more forward pass")
    else:
        found.append(f"--train.microbatches {2 * config.train.microbatches}: half the activations at a time")
    found += more_devices(config, plan)
    return found


def more_devices(config: Config, plan: Plan) -> list[str]:
    """What splits the state further."""
    found = []
    if plan.mesh["replica"] > 1:
        found.append(f"--mesh.fsdp {2 * plan.mesh['fsdp']}: half the parameters and moments on each device")
    found.append(f"--data.batch-size {config.data.batch_size // 2}, or a larger --topology")
    return found
