"""What a container leaves: control groups of both versions, nested, in trees of files like the kernel's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from paddlemae.engine.cpus import usable_cpus
from paddlemae.system import limits
from paddlemae.tasks.training import memory_trial

GIB = 2**30
V2 = "30 23 0:26 {top} /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
V1 = "31 23 0:27 {top} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
V1 += "32 23 0:28 {top} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"


def machine(root: Path, files: dict[str, object], own: str = "0::/\n", mounts: str = "", available: int = 64) -> Path:
    """A root folder with these files below its control groups."""
    proc = {"proc/meminfo": f"MemTotal: {99 * 2**20} kB\nMemAvailable:   {available * 2**20} kB\n"}
    proc |= {"proc/self/cgroup": own, "proc/self/mountinfo": mounts}
    for name, content in {**proc, **{f"sys/fs/cgroup/{name}": content for name, content in files.items()}}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}")
    return root


def test_without_groups_memory_is_what_the_machine_has(tmp_path) -> None:
    assert limits.free_memory(machine(tmp_path, {})) == 64 * GIB
    assert limits.cpu_quota(tmp_path) is None
    assert limits.free_memory(tmp_path / "nothing") is None and limits.cpu_quota(tmp_path / "nothing") is None


@pytest.mark.parametrize("mounts", ["", V2.format(top="/")])
def test_what_a_group_uses_is_not_free_but_caches_are(tmp_path, mounts: str) -> None:
    files = {"memory.max": 4 * GIB, "memory.current": 3 * GIB, "memory.stat": f"anon 5\ninactive_file {GIB}\n"}
    assert limits.free_memory(machine(tmp_path, files, mounts=mounts)) == 2 * GIB
    (tmp_path / "sys/fs/cgroup/memory.high").write_text(f"{3 * GIB}\n")
    assert limits.free_memory(tmp_path) == GIB
    (tmp_path / "sys/fs/cgroup/memory.current").write_text(f"{9 * GIB}\n")
    assert limits.free_memory(tmp_path) == 0


def test_the_least_of_the_own_group_and_those_around_it_counts(tmp_path) -> None:
    files = {
        "job/memory.max": 8 * GIB,
        "job/memory.current": GIB,
        "job/step/memory.max": "max",
        "job/step/task/memory.max": 16 * GIB,
        "other/memory.max": GIB,
        "job/cpu.max": "150000 100000\n",
        "job/step/cpu.max": "max 100000\n",
    }
    machine(tmp_path, files, own="0::/job/step/task\n", mounts=V2.format(top="/"))
    assert limits.free_memory(tmp_path) == 7 * GIB and limits.cpu_quota(tmp_path) == 1.5
    machine(
        tmp_path, {"job/step/task/memory.max": 2 * GIB, "job/step/cpu.max": "50000 100000\n"}, own="0::/job/step/task"
    )
    assert limits.free_memory(tmp_path) == 2 * GIB and limits.cpu_quota(tmp_path) == 0.5


def test_version_1_has_a_hierarchy_for_each_controller(tmp_path) -> None:
    files = {
        "memory/a/memory.limit_in_bytes": 4 * GIB,
        "memory/a/memory.usage_in_bytes": 2 * GIB,
        "memory/a/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB}\n",
        "memory/memory.limit_in_bytes": 9223372036854771712,  # none
        "cpu,cpuacct/b/c/cpu.cfs_quota_us": -1,
        "cpu,cpuacct/b/c/cpu.cfs_period_us": 100000,
        "cpu,cpuacct/b/cpu.cfs_quota_us": 300000,
        "cpu,cpuacct/b/cpu.cfs_period_us": 100000,
    }
    machine(tmp_path, files, own="5:memory:/a\n3:cpu,cpuacct:/b/c\n0::/x\n", mounts=V1.format(top="/"))
    assert limits.free_memory(tmp_path) == 3 * GIB and limits.cpu_quota(tmp_path) == 3


def test_a_container_sees_its_own_group_as_the_outermost(tmp_path) -> None:
    files = {"memory/memory.limit_in_bytes": 5 * GIB, "memory/inner/memory.limit_in_bytes": 2 * GIB}
    own, mounts = "4:memory:/docker/abc/inner\n3:cpu,cpuacct:/elsewhere\n", V1.format(top="/docker/abc")
    assert limits.free_memory(machine(tmp_path, files, own=own, mounts=mounts)) == 2 * GIB
    assert limits.cpu_quota(tmp_path) is None
    machine(tmp_path, {}, own="4:memory:/../outside\n", mounts=mounts)  # as other namespaces are shown
    assert limits.free_memory(tmp_path) == 5 * GIB


@pytest.mark.parametrize("junk", ["", "many\n", "-1\n", "1 2 3\n", "\x00\xff"])
def test_files_of_another_form_are_no_limit(tmp_path, junk: str) -> None:
    files = {"memory.max": junk, "memory.current": junk, "memory.stat": junk, "cpu.max": junk}
    machine(tmp_path, files, own=junk, mounts=junk)
    assert limits.free_memory(tmp_path) == 64 * GIB and limits.cpu_quota(tmp_path) is None


@pytest.mark.parametrize(("quota", "wanted"), [(None, 6), (2.6, 3), (0.2, 1), (50.0, 6)])
def test_threads_are_those_that_a_quota_leaves(monkeypatch, quota: float | None, wanted: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    monkeypatch.setattr("paddlemae.engine.cpus.cpu_quota", lambda: quota)
    assert usable_cpus() == wanted


def test_a_dry_run_says_what_a_container_leaves(paddlemae, tiny, photos, untried, monkeypatch) -> None:
    monkeypatch.setattr(memory_trial, "free_memory", lambda: 5 * GIB)
    done = paddlemae("pretrain", *tiny, "--data", photos, "--dry-run")
    assert done.status == 0 and "up to about 25 in the 5.0 GiB" in done.out
    monkeypatch.setattr(memory_trial, "free_memory", lambda: None)  # no /proc
    done = paddlemae("pretrain", *tiny, "--data", photos, "--dry-run")
    assert done.status == 0 and "estimated" in done.out


@pytest.mark.parametrize("options", [[], ["--procs", "2"]])
def test_a_current_folder_that_is_gone_is_one_line(tiny, photos, tmp_path, options: list[str]) -> None:
    (tmp_path / "gone").mkdir()
    words = ["pretrain", *tiny, "--data", photos, "--out", tmp_path / "run", *options]
    code = (
        "import os, sys; os.chdir(sys.argv.pop(1)); os.rmdir(os.getcwd()); from paddlemae.cli.app import main; main()"
    )
    command = [sys.executable, "-c", code, tmp_path / "gone", *words]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "current folder was deleted" in done.stderr
