"""Name the processor, its instruction sets, and the parts of the libraries that a process uses of them."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
# Those that decide how fast matrices are multiplied, as Linux names them: x86, then Arm
RELEVANT = (
    *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "amx_fp16"),
    *("asimd", "sve", "sve2", "bf16", "i8mm"),
)
# Values of `dnnl_get_effective_cpu_isa` (dnnl_types.h)
ONEDNN_NAMES = {
    0x1: "SSE4.1", 0x3: "AVX", 0x7: "AVX2", 0xF: "AVX2 with VNNI", 0x1F: "AVX2 with VNNI and bf16", 0x27: "AVX-512",
    0x67: "AVX-512 with VNNI", 0xE7: "AVX-512 with bf16", 0x1EF: "AVX-512 with fp16", 0xFEF: "AMX",
    0x1FEF: "AMX with fp16",
}  # fmt: skip


def read_cpuinfo(path: Path = CPUINFO) -> dict[str, str]:
    """Return what Linux knows of the first processor; empty elsewhere."""
    if not path.exists():
        return {}
    first = path.read_text().partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def processor_name(cpuinfo: dict[str, str]) -> str:
    """Return the name that the processor gives itself."""
    return cpuinfo.get("model name") or platform.processor() or platform.machine()


def model_numbers(cpuinfo: dict[str, str]) -> str:
    """Return family and model, since virtual machines leave them out of the name; "" where they are unknown."""
    words = [("family", "cpu family"), ("model", "model"), ("stepping", "stepping")]
    return ", ".join(f"{word} {cpuinfo[key]}" for word, key in words if key in cpuinfo)


def instruction_sets(cpuinfo: dict[str, str]) -> list[str]:
    """Return which of `RELEVANT` the processor has."""
    flags = set((cpuinfo.get("flags") or cpuinfo.get("Features") or "").split())
    return [name for name in RELEVANT if name in flags]


def has_bfloat16() -> bool:
    """Return whether the processor multiplies bfloat16 numbers."""
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(instruction_sets(read_cpuinfo())))


def used_kernels() -> dict[str, str]:
    """Return what multiplies in this process, as far as its libraries are loaded: library -> products, instructions."""
    used = {}
    if "torch" in sys.modules:
        import torch

        used["torch"] = torch.backends.cpu.get_cpu_capability()
    if "paddlemae.engine.products" in sys.modules:
        from paddlemae.engine import onednn_primitives, products

        used["paddlemae"] = products.description()
        if products.by_onednn():
            found = onednn_primitives.library().calls.dnnl_get_effective_cpu_isa()
            used["paddlemae"] += f", {ONEDNN_NAMES.get(found, hex(found))}"
    return used
