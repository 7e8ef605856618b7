"""What `profiling.parts` measured, as lines for a terminal. Imports no JAX."""

from collections.abc import Mapping
from typing import Any

from dreamer_jax.core.memory import MIB

NAME_WIDTH = 24  # fixed, so that lines printed at different times stand below each other [characters]


def table(result: Mapping[str, Any]) -> str:
    """The measurements as lines for a terminal. Those of the whole loop come last, where they were taken."""
    step, loop = result["step"], result.get("loop")
    rows = [
        ("compiled step", _milliseconds(step)),
        *((f"  {name}", _milliseconds(timing)) for name, timing in result["parts"].items()),
        ("compilation", f"{step['compile_seconds']:10.1f} s"),
        ("peak memory", f"{step['peak_bytes'] / MIB:10,.0f} MiB"),
        (
            "work of a step",
            f"{step['flops'] / 1e9:10.2f} GFLOP, {step['fraction_of_matmul_rate']:.0%} of the "
            f"{step['matmul_flops_per_second'] / 1e9:,.0f} GFLOP/s of large matrix products",
        ),
        *((f"policy, {count} env", _milliseconds(timing)) for count, timing in result["policy"].items()),
        *(row for size in result["replay"] for row in _replay_rows(size)),
    ]
    if loop:
        rate = f"{loop['decisions_per_second']:10.1f} decisions/s, {loop['updates_per_second']:.2f} updates/s"
        rows.append(("whole loop", f"{rate}, no update in {loop['share_without_update']:.0%} of the time"))
    return "\n".join(f"{name:{NAME_WIDTH}}{text}" for name, text in rows)


def _replay_rows(size: Mapping[str, float]) -> list[tuple[str, str]]:
    return [
        (f"replay of {size['records']:,.0f}", f"{size['add_records_per_second']:10,.0f} records/s added"),
        (
            "  sample",
            f"{size['sample_sequences_per_second']:10,.0f} sequences/s = {size['sample_bytes_per_second'] / 1e9:.2f} GB/s, "
            f"{size['sample_time_over_copy_time']:.2f} times a copy",
        ),
    ]


def _milliseconds(timing: Mapping[str, float]) -> str:
    low, high = timing["min"] * 1e3, timing["max"] * 1e3
    return f"{timing['median'] * 1e3:10.2f} ms  ({low:.2f} to {high:.2f} in {timing['calls']} calls)"
