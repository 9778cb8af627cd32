"""The processor's name and instruction sets, from texts as Linux gives them."""

from pathlib import Path

from benchmarks import report, results
from benchmarks.processor import instruction_sets, model_numbers, processor_name, read_cpuinfo, used_kernels

XEON = """processor\t: 0
cpu family\t: 6
model\t\t: 207
model name\t: Intel(R) Xeon(R) Processor
stepping\t: 2
flags\t\t: fpu sse2 avx avx2 avx512f avx512bw avx512_vnni hypervisor

processor\t: 1
model name\t: another
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd sve bf16\n\n"


def test_the_first_processor_is_described(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(XEON)
    found = read_cpuinfo(tmp_path / "cpuinfo")
    assert processor_name(found) == "Intel(R) Xeon(R) Processor"
    assert model_numbers(found) == "family 6, model 207, stepping 2"
    assert instruction_sets(found) == ["avx2", "avx512f", "avx512_vnni"]
    (tmp_path / "cpuinfo").write_text(ARM)
    assert instruction_sets(read_cpuinfo(tmp_path / "cpuinfo")) == ["asimd", "sve", "bf16"]
    nothing = read_cpuinfo(tmp_path / "missing")
    assert instruction_sets(nothing) == [] and model_numbers(nothing) == "" and processor_name(nothing)


def test_the_tables_begin_with_processor_instruction_sets_and_products() -> None:
    machine = results.this_machine(2).model_copy(
        update={"cpu": "A Processor", "model": "family 6", "instruction_sets": ["avx2", "amx_bf16"]}
    )
    run = {"seconds": [1.0], "kernels": {"paddlemae": "onednn, AMX"}}
    entry = results.Entry(session="now", commit="abc", job={}, runs=[run])
    text = report.tables_text(results.Results(machine=machine, works={"startup": {"help": entry}}))
    head = text.partition("\n\n")[0]
    assert "| machine | A Processor (family 6), 2 cores" in head and "| instruction sets | avx2, amx_bf16 |" in head
    assert "| products | paddlemae: onednn, AMX |" in head


def test_what_multiplies_here_is_named() -> None:
    import paddlemae.engine.products  # noqa: F401

    assert used_kernels()["paddlemae"].startswith(("onednn", "paddle ("))
