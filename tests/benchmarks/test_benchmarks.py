"""The benchmark's arithmetic, tables and command line. Nothing is timed here."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import figures, limit, measure, report, results, run, speed_page, worker
from benchmarks.works import ISAS, SIDES, Job, Target, Work, works

WORK = Work(
    name="pretrain-tiny-32",
    section="pretrain",
    title="Tiny",
    job=Job("pretrain", "", "tiny", 32, threads=2),
    sides=("ours", "torch-sdpa", "torch-compile", "plain"),
    quantity="images/s",
    targets=(Target("ours", ("torch-sdpa", "torch-compile"), 1.0, 1.25), Target("ours", ("plain",), 3.5)),
)
MACHINE = results.Machine(cpu="A Processor", cores=2, memory_gb=8, system="Linux x86_64", python="3.12.0")


def entry(*steps: list[float], session: str = "now", **more) -> results.Entry:
    return results.Entry(session=session, commit="abc", job={}, runs=[{"seconds": one, **more} for one in steps])


def measured(**sides: results.Entry) -> results.Results:
    named = {side.replace("_", "-"): one for side, one in sides.items()}
    return results.Results(machine=MACHINE, works={WORK.name: named})


def test_a_side_is_the_median_of_medians_with_their_range() -> None:
    runs = [{"seconds": [8.0, 1.0, 1.0]}, {"seconds": [2.0]}, {"seconds": [4.0, 4.0]}]
    assert measure.summary(WORK, runs) == measure.Summary(value=16.0, low=8.0, high=32.0, runs=3)
    assert measure.summary(replace(WORK, quantity="ms"), runs).value == 2000
    peaks = [{"seconds": [1.0], "peak_bytes": 3e9}]
    assert measure.summary(replace(WORK, quantity="GB"), peaks).value == 3
    assert measure.summary(WORK, [*runs, {"unavailable": "no torch"}]) is None
    from_files = replace(WORK, section="end-to-end")
    assert measure.summary(from_files, [{"seconds": [1.0, 1.0, 4.0]}]).value == 16, "all images over the whole time"


def test_targets_take_the_best_rival_and_know_which_way_is_better() -> None:
    found = measured(ours=entry([1.0]), torch_sdpa=entry([1.5]), torch_compile=entry([1.1]), plain=entry([3.0]))
    against_torch, against_plain = (report.verdict(found, WORK, target) for target in WORK.targets)
    assert (against_torch.rival, against_torch.met) == ("torch-compile", True)
    assert against_torch.value == pytest.approx(1.1)
    assert against_plain.value == pytest.approx(3) and against_plain.met is False
    latency = replace(WORK, quantity="ms")
    assert report.verdict(found, latency, WORK.targets[0]).value == pytest.approx(1.1)
    memory = replace(WORK, quantity="GB")
    found = measured(ours=entry([1.0], peak_bytes=4e9), torch_sdpa=entry([1.0], peak_bytes=3e9))
    assert report.verdict(found, memory, WORK.targets[0]).met is False
    assert report.verdict(found, WORK, Target("ours", ("plain",), 1.0)).met is None


def test_the_table_shows_met_missed_and_separate_measurements() -> None:
    found = measured(ours=entry([1.0], [0.5]), torch_sdpa=entry([1.0]), plain=entry([1.0], session="yesterday"))
    met, missed = report.targets_table(found, {WORK.name: WORK}).splitlines()[2:4]
    assert met.endswith("| 1.50 (48.0 / 32.0 images/s) | ≥ 1 (1.25) | met |")
    assert missed.endswith("| 1.50 (48.0 / 32.0 images/s) * | ≥ 3.5 | **not met** |")
    rows = report.section_table(found, [WORK])
    assert "| PaddleMAE | 48.0 (32.0–64.0) · 1.50 |" in rows and "| transformers, torch.compile | – |" in rows


def test_digits_are_three_and_never_scientific() -> None:
    shown = [report.digits(value) for value in (1234.5, 99.96, 9.996, 0.01234)]
    assert shown == ["1234", "100", "10.0", "0.0123"]


def test_a_step_multiplies_what_counting_by_hand_gives() -> None:
    # mini: 64 patches of 48 pixels, 16 kept; 4 blocks of 128 and 2 of 96
    job = Job("pretrain", "ours", "mini", 2)
    block = 3 * (12 * 128**2 * 17 + 2 * 17 * 17 * 128)
    whole = 3 * (12 * 96**2 * 65 + 2 * 65 * 65 * 96)
    # the last block computes queries, attention and MLP for 48 removed patches, keys and values for all
    last = 3 * (10 * 96**2 * 48 + 2 * 96**2 * 65 + 2 * 48 * 65 * 96)
    embedding, between, head = 2 * 16 * 48 * 128, 3 * 17 * 128 * 96, 3 * 48 * 96 * 48
    by_hand = 2 * 2 * (embedding + 4 * block + between + whole + last + head)
    assert limit.operations(limit.step_products(job)) == by_hand


def test_features_count_only_forward_and_the_last_cls_token() -> None:
    job = Job("features", "ours", "mini", 2)
    block = 12 * 128**2 * 65 + 2 * 65 * 65 * 128
    last = 10 * 128**2 + 2 * 128**2 * 65 + 2 * 65 * 128
    forward = 64 * 48 * 128 + 3 * block + last
    assert limit.operations(limit.step_products(job)) == 2 * 2 * forward
    # training adds two gradients of everything but the pixels' own, and a head
    training = limit.operations(limit.step_products(replace(job, task="classify")))
    assert training == 2 * 2 * (3 * forward - 64 * 48 * 128 + 3 * 128 * 1000)


def test_a_step_without_waste_is_as_long_as_its_products() -> None:
    job = Job("pretrain", "ours", "mini", 2)
    products = limit.step_products(job)
    slow = [[*shape, 2.0] for shape in products]
    fast = [[*shape, 1.0] for shape in list(products)[:1]]
    first = products[next(iter(products))]
    assert limit.shaped_seconds(job, [slow, fast]) == 2 * sum(products.values()) - first
    assert limit.rate([[1, 10, 10, 10, 1.0], [2, 10, 10, 10, 0.5]]) == 8000
    assert Counter(products) == products  # no product counted as none


def test_the_limit_of_a_work_is_its_images_over_its_operations() -> None:
    found = results.Results(machine=MACHINE)
    assert report.step_limit(found, WORK) is None
    operations = limit.operations(limit.step_products(WORK.job))
    square = results.Entry(session="", commit="", job={}, runs=[{"products": [[1, 100, 100, 100, 1e-3]]}])
    found.works["limit-square-2"] = {"plain-tuned": square}
    assert report.step_limit(found, WORK) == pytest.approx(32 * 2e9 / operations)


def test_steps_are_timed_from_end_to_end_after_the_warmup(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 9.0, 10.0, 12.0, 15.0])
    monkeypatch.setattr(worker.time, "perf_counter", lambda: next(now))
    clock = worker.Clock(Job("pretrain", "ours", warmup=1, min_steps=2, min_seconds=4))
    done = []
    for _ in range(4):
        clock.mark()
        done.append(clock.done())
    assert clock.seconds() == [1.0, 2.0, 3.0]
    assert done == [False, False, False, True]


def test_every_side_is_given_the_same_batches() -> None:
    job = Job("pretrain", "ours", "mini", 3)
    images = worker.images_u8(job)
    assert images[0].shape == (3, 3, 32, 32) and images[0].dtype == np.uint8
    assert not np.array_equal(images[0], images[1])
    np.testing.assert_array_equal(images[0], worker.images_u8(replace(job, side="plain"))[0])


def test_children_inherit_nothing_that_changes_their_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("MKL_DEBUG_CPU_TYPE", "5")
    plain = measure.environment(Job("pretrain", "plain", threads=2))
    assert not {"OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE"} & set(plain)
    tuned = measure.environment(Job("pretrain", "plain-tuned", threads=2))
    assert (tuned["OMP_NUM_THREADS"], tuned["MKL_DEBUG_CPU_TYPE"]) == ("2", "5")


def test_a_limit_of_instructions_holds_for_every_side_and_in_a_file_of_its_own() -> None:
    for side in ("ours", "torch-compile", "plain-tuned"):
        limited = measure.environment(Job("pretrain", side, isa="avx2", threads=2))
        assert (limited["ONEDNN_MAX_CPU_ISA"], limited["ATEN_CPU_CAPABILITY"]) == ("AVX2", "avx2")
        assert not set(ISAS["avx2"]) & set(measure.environment(Job("pretrain", side, threads=2)))
    limited_machine = MACHINE.model_copy(update={"isa": "avx2"})
    assert run.machine_name(limited_machine) == "a-2-cores-avx2" and "limited to avx2" in limited_machine.named()


def test_sides_take_turns_and_hopeless_variants_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"ours": 5.0, "torch-sdpa": 1.0, "torch-compile": 2.0}
    order = []

    def run_job(job: Job, prefix: str) -> dict:
        order.append(job.side)
        return {"unavailable": "no Paddle"} if job.side == "plain" else {"seconds": [seconds[job.side]]}

    monkeypatch.setattr(measure, "run_job", run_job)
    found = measure.run_work(WORK, WORK.sides, 2, changes={}, say=lambda line: None)
    assert order == [*WORK.sides, "ours", "torch-sdpa"]
    assert [len(found[side]) for side in WORK.sides] == [2, 2, 1, 1]


def test_sides_far_behind_are_measured_once_and_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = []

    def run_job(job: Job, prefix: str) -> dict:
        jobs.append(job)
        return {"seconds": [1.0]}

    monkeypatch.setattr(measure, "run_job", run_job)
    measure.run_work(WORK, ("ours", "plain"), 2, changes={"batch": 8}, say=lambda line: None)
    assert [(job.side, job.warmup, job.min_steps, job.batch) for job in jobs] == [
        ("ours", 2, 3, 8), ("plain", 1, 2, 8), ("ours", 2, 3, 8)
    ]  # fmt: skip


def test_optional_models_are_measured_only_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["pretrain", "--list"]) == 0
    assert "tiny-512" not in capsys.readouterr().out
    assert run.main(["pretrain", "--models", "tiny-512", "--list"]) == 0
    assert capsys.readouterr().out.startswith("pretrain-tiny-512-32: ours,")
    wide = works(2)["pretrain-tiny-512-32"]
    assert wide.title not in report.targets_table(results.Results(machine=MACHINE), {wide.name: wide})
    found = results.Results(machine=MACHINE, works={wide.name: {"ours": entry([1.0]), "torch-sdpa": entry([2.0])}})
    assert wide.title in report.targets_table(found, {wide.name: wide})


def test_tables_name_the_rival_and_keep_reasons_short() -> None:
    table = report.targets_table(results.Results(machine=MACHINE), works(2)).splitlines()[2:]
    assert {line.split(" | ")[2] for line in table} == {
        "fastest transformers", "plain Paddle, as installed", "Pillow chain", "–",
        "PaddleMAE, one process of one thread", "PaddleMAE", "fastest transformers, bfloat16",
    }  # fmt: skip
    failed = results.Entry(
        session="now", commit="abc", job={}, runs=[{"unavailable": "exit status 1: " + "words " * 40}]
    )
    rows = report.section_table(measured(ours=entry([1.0]), plain=failed), [WORK]).splitlines()
    (cell,) = [line.split(" | ")[1].removesuffix(" |") for line in rows if SIDES["plain"].title in line]
    assert cell.startswith("not available: words words") and cell.endswith(" …") and len(cell) <= 60


def test_a_failing_process_is_a_side_that_is_not_available() -> None:
    found = measure.run_job(Job("no such task", "help"))
    assert measure.unavailable([found]) == "exit status 1: KeyError: 'no such task'"


def test_a_side_without_its_precision_says_so() -> None:
    job = Job("pretrain", "ours-bfloat16", "mini", 2, isa="avx2")
    assert measure.run_job(job)["unavailable"].startswith("precision bfloat16 needs a CPU with")


def test_a_variant_is_hopeless_among_those_of_its_precision_only() -> None:
    runs = {"torch-sdpa": [{"seconds": [2.0]}], "torch-eager": [{"seconds": [3.0]}]}
    assert not measure.is_hopeless(WORK, "torch-sdpa", runs | {"torch-bfloat16": [{"seconds": [1.0]}]})
    assert measure.is_hopeless(WORK, "torch-eager", runs)


def test_a_worker_runs_a_job_and_says_what_it_took() -> None:
    job = Job("startup", "import-paddlemae", warmup=0, min_steps=1, min_seconds=0)
    found = worker.run(job)
    assert len(found["seconds"]) == 1 and found["peak_bytes"] > 0
    json.dumps(found)


def test_works_are_named_once_and_their_sides_exist() -> None:
    everything = works(4)
    assert {side for work in everything.values() for side in work.sides} <= set(SIDES)
    assert everything["sweep-threads-1"].job.threads == 1 and everything["sweep-batch-8"].job.threads == 4
    assert everything["pretrain-base-16"].job.threads == 4
    assert all(set(work.quick) <= set(work.sides) for work in everything.values())
    assert len({replace(work.job, side="") for work in everything.values() if work.section == "sweep"}) == sum(
        work.section == "sweep" for work in everything.values()
    )


def test_results_are_kept_by_work_and_side_and_checked_when_read(tmp_path: Path) -> None:
    path = tmp_path / "results" / "a.json"
    first = measured(ours=entry([1.0]), plain=entry([2.0]))
    results.write(path, first)
    assert results.read(path) == first and not list(path.parent.glob("*.part"))
    with pytest.raises(ValueError, match="choose another --name"):
        results.open_results(path, MACHINE.model_copy(update={"cores": 64}))
    with pytest.raises(FileNotFoundError, match="make bench"):
        results.read(tmp_path / "b.json")
    path.write_text(path.read_text().replace('"commit"', '"comit"', 1))
    with pytest.raises(ValueError, match=r"works.pretrain-tiny-32.ours.commit: Field required"):
        results.read(path)


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "instruction_sets", lambda cpuinfo: [])
    for arguments, said in [
        (["pretrian"], "there is no section 'pretrian'; there are limit, pretrain"),
        (["--models", "giant"], "there is no model 'giant'"),
        (["--sides", "jax"], "there is no side 'jax'"),
        (["--repeats", "0"], "--repeats must be at least 1, got 0"),
        (["input", "--models", "tiny"], "no work is left"),
        (["report", "--name", "nothing-here"], "no results in"),
        (["--isa", "avx2"], "--isa avx2 needs a processor with avx2"),
    ]:
        assert run.main(arguments) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1


def test_list_shows_works_and_measures_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["pretrain", "--models", "base", "--quick", "--list"]) == 0
    sides = "ours, ours-cross, torch-sdpa, ours-bfloat16, torch-bfloat16, plain"
    assert capsys.readouterr().out == f"pretrain-base-16: {sides}\n"


def test_a_run_writes_its_results_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("PAGE", "BARS", "SWEEPS"):
        monkeypatch.setattr(speed_page, name, tmp_path / "docs" / Path(getattr(speed_page, name)).name)
    took = {"ours": 1.0, "torch-sdpa": 2.0}
    monkeypatch.setattr(measure, "run_job", lambda job, prefix: {"seconds": [took[job.side]] * 3})
    monkeypatch.setattr(run, "calibration_rate", lambda threads, prefix: 100.0)
    command = ["pretrain", "--models", "tiny", "--name", "a", "--out", str(tmp_path / "out"), "--repeats", "1"]
    assert run.main([*command, "--sides", "ours", "torch-sdpa"]) == 0
    took["ours"] = 0.5
    assert run.main([*command, "--sides", "ours"]) == 0
    found = results.read(tmp_path / "out" / "a.json").works["pretrain-tiny-32"]
    assert [found[side].runs[0]["seconds"][0] for side in ("ours", "torch-sdpa")] == [0.5, 2.0]
    shown = capsys.readouterr().out
    assert "4.00 (64.0 / 16.0 images/s)" in shown and "| 100 GFLOP/s |" in shown
    assert [path.name for path in tmp_path.rglob("*.*")] == ["a.json"]
    assert run.main(["page", "--name", "a", "--out", str(tmp_path / "out")]) == 2
    assert "has no results of limit, processes" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*.*")] == ["a.json"], "a page without sections breaks links"


def test_the_page_is_that_of_the_committed_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    committed = speed_page.PAGE.read_text()
    for name in ("PAGE", "BARS", "SWEEPS"):
        monkeypatch.setattr(speed_page, name, tmp_path / Path(getattr(speed_page, name)).name)
    assert run.main(["page", "--name", "amd-epyc-2-cores", "--out", str(measure.ROOT / "benchmarks" / "results")]) == 0
    assert (tmp_path / "speed.md").read_text() == committed
    assert min((tmp_path / name).stat().st_size for name in ("speed.png", "speed-sweeps.png")) > 1000


def test_a_figure_of_one_point_a_sweep_can_be_drawn(tmp_path: Path) -> None:
    points = [figures.Point(16, 30.0, 25.0, None)]
    figures.draw_sweeps(tmp_path / "sweeps.png", {"batch": points, "image_size": points})
    assert (tmp_path / "sweeps.png").stat().st_size > 1000
