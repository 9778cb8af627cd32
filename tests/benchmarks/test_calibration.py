"""Disturbed measurements are repeated, and marked where no attempt was quiet. Clocks and rates are made up."""

from dataclasses import replace

import pytest

from benchmarks import calibration, measure, report, results
from benchmarks.calibration import ATTEMPTS, Calibration, is_disturbed, usual_rate
from benchmarks.works import Job, Target, Work

WORK = Work(
    name="pretrain-tiny-32",
    section="pretrain",
    title="Tiny",
    job=Job("pretrain", "", "tiny", 32, threads=2),
    sides=("ours", "torch-sdpa"),
    quantity="images/s",
    targets=(Target("ours", ("torch-sdpa",), 1.0),),
)
MACHINE = results.Machine(cpu="A Processor", cores=2, memory_gb=8, system="Linux x86_64", python="3.12.0")


def calibrated(*rates: float, known: float = 0.0, attempts: int = ATTEMPTS) -> tuple[Calibration, list[float]]:
    """Return a calibration whose product has these rates in turn, and the pauses it makes."""
    pauses: list[float] = []
    return Calibration(iter(rates).__next__, [known] * 9 if known else [], attempts, sleep=pauses.append), pauses


def test_a_quiet_measurement_is_made_once_between_two_products() -> None:
    quiet, pauses = calibrated(100.0, 99.0, 98.0)
    for rates in ([100.0, 99.0], [99.0, 98.0]):  # the product after one is that before the next
        assert quiet.measure(lambda: {"seconds": [1.0]}, pytest.fail) == {"seconds": [1.0], "calibration": rates}
    assert pauses == []


def test_a_disturbed_measurement_is_repeated_until_it_is_quiet() -> None:
    noisy, pauses = calibrated(100.0, 60.0, 99.0, 98.0)
    taken, said = iter([9.0, 1.0]), []
    found = noisy.measure(lambda: {"seconds": [next(taken)]}, said.append)
    assert found == {"seconds": [1.0], "calibration": [99.0, 98.0]}
    assert len(said) == len(pauses) == 1 and "100 and 60 of 100 GFLOP/s" in said[0]


def test_attempts_are_limited_and_the_least_disturbed_one_is_kept() -> None:
    noisy, pauses = calibrated(50.0, 40.0, 70.0, 80.0, 60.0, 90.0, known=100.0)
    taken = iter([1.0, 2.0, 3.0])
    found = noisy.measure(lambda: {"seconds": [next(taken)]}, lambda line: None)
    assert found == {"seconds": [2.0], "calibration": [70.0, 80.0]} and len(pauses) == ATTEMPTS - 1
    assert is_disturbed(found, noisy.usual) and not is_disturbed({"seconds": [1.0]}, noisy.usual)
    once, _ = calibrated(50.0, 40.0, known=100.0, attempts=1)
    assert once.measure(lambda: {}, pytest.fail) == {"calibration": [50.0, 40.0]}


def test_what_fails_is_not_repeated() -> None:
    noisy, _ = calibrated(50.0, known=100.0)
    assert noisy.measure(lambda: {"unavailable": "no torch"}, pytest.fail) == {"unavailable": "no torch"}


def test_sides_are_calibrated_but_for_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "run_job", lambda job, prefix: {"seconds": [1.0], "peak_bytes": 1})
    for quantity, number in (("images/s", 2), ("GB", 0)):
        quiet, _ = calibrated(100.0, 100.0, 100.0)
        work = replace(WORK, quantity=quantity)
        found = measure.run_work(work, work.sides, 1, changes={}, calibration=quiet, say=lambda line: None)
        assert sum("calibration" in run for runs in found.values() for run in runs) == number


def found_by(*ours: tuple[float, float]) -> results.Results:
    """Return results of a quiet rival, and of our processes by seconds and rate."""
    runs = {
        "ours": [{"seconds": [seconds], "calibration": [rate, 100.0]} for seconds, rate in ours],
        "torch-sdpa": [{"seconds": [1.0], "calibration": [100.0, 99.0]}],
    }
    entries = {side: results.Entry(session="now", commit="a", job={}, runs=some) for side, some in runs.items()}
    return results.Results(machine=MACHINE, works={WORK.name: entries})


def test_quiet_processes_count_alone_and_results_without_one_are_marked() -> None:
    quiet = found_by((4.0, 50.0), (2.0, 97.0))
    assert report.summaries(quiet, WORK)["ours"] == measure.Summary(16.0, 16.0, 16.0, runs=1)
    assert report.disturbed_note(quiet, {WORK.name: WORK}) == ""
    noisy = found_by((4.0, 50.0), (2.0, 60.0))
    mark = report.DISTURBED
    assert f"12.0 (8.00–16.0){mark}" in report.section_table(noisy, [WORK])
    assert f"0.38 (12.0 / 32.0 images/s) {mark} |" in report.targets_table(noisy, {WORK.name: WORK})
    assert report.disturbed_note(noisy, {WORK.name: WORK}).startswith(mark)


def test_the_usual_rate_is_no_burst_of_the_clock() -> None:
    assert usual_rate([150.0, *[130.0] * 6, 90.0]) == 130.0
    assert usual_rate([90.0, 100.0]) == 100.0 and usual_rate([]) == 0.0
    bursty, _ = calibrated(150.0, *[131.0] * 9, 130.0, 132.0, known=130.0)
    for _ in range(9):
        assert bursty.measure(lambda: {}, pytest.fail)["calibration"][1] == 131.0


def test_a_better_product_later_shows_that_earlier_ones_were_disturbed() -> None:
    found = found_by((1.0, 100.0))
    assert not report.summaries(found, WORK)["ours"].disturbed
    found.works["other"] = {
        "ours": results.Entry(session="", commit="", job={}, runs=[{"calibration": [200.0, 200.0]}])
    }
    assert report.summaries(found, WORK)["ours"].disturbed


def test_the_product_is_timed_as_a_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "SIZE", 2)
    now = iter([0.0, 0.0, 0.1, 0.3, 0.8])
    monkeypatch.setattr(calibration.time, "perf_counter", lambda: next(now))
    assert calibration.product_rate() == pytest.approx(3 * 2 * 2**3 / 0.8 / 1e9)


def test_the_product_runs_in_a_process_of_its_own() -> None:
    assert measure.calibration_rate(threads=1) > 0
