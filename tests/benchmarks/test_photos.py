"""The files that the benchmark trains from, and the views that are made of them."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import measure, photos, run
from benchmarks.input_pipeline import MEAN_C11, STD_C11, jpeg_files, pillow_view
from benchmarks.works import Job, works


def test_files_are_the_same_each_time_and_as_large_as_small_photos(tmp_path: Path) -> None:
    for name in "ab":
        photos.write_jpegs(tmp_path / name, count=3)
    files = [jpeg_files(Job("end-to-end", "ours", photos=str(tmp_path / name))) for name in "ab"]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]
    assert len(files[0]) == 3 and all(500 < path.stat().st_size < 2000 for path in files[0])


def test_files_are_written_and_tars_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(photos, "write_jpegs", lambda folder: folder.mkdir())
    made = photos.small_jpegs()
    monkeypatch.setattr(photos, "write_jpegs", pytest.fail)
    assert photos.small_jpegs() == made and Path(made).is_dir()
    with tarfile.open(tmp_path / "some.tar", "w") as archive:
        archive.add(__file__, "a.jpg")
    unpacked = photos.photo_folder(tmp_path / "some.tar")
    assert [path.name for path in Path(unpacked).iterdir()] == ["a.jpg"]
    assert photos.photo_folder(tmp_path / "some.tar") == unpacked
    assert photos.photo_folder(tmp_path) == str(tmp_path.resolve())


def test_the_input_pipeline_has_real_photos_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(run, "PHOTOS", tmp_path / "nothing.tar")
    jobs: list[Job] = []
    monkeypatch.setattr(measure, "run_job", lambda job, prefix: jobs.append(job) or {"unavailable": "no photos"})
    monkeypatch.setattr(run, "calibration_rate", lambda threads, prefix: 100.0)
    command = ["input", "--name", "a", "--out", str(tmp_path / "out"), "--quick"]
    assert run.main(command) == 0 and {job.photos for job in jobs} == {""}
    assert run.main([*command, "--photos", str(tmp_path)]) == 0 and jobs[-1].photos == str(tmp_path.resolve())
    assert run.main([*command, "--photos", str(tmp_path / "gone")]) == 2
    assert "--photos names" in capsys.readouterr().err


def test_a_view_is_a_crop_that_may_be_flipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((40, 50, 3), 200, np.uint8)).save(tmp_path / "a.jpg")
    view = pillow_view(tmp_path / "a.jpg", 32, np.random.default_rng(0))
    assert view.shape == (3, 32, 32) and view.dtype == np.float32
    np.testing.assert_allclose(view * STD_C11 + MEAN_C11, 200 / 255, atol=1e-6)


@pytest.mark.slow
def test_training_from_files_is_measured(tmp_path: Path) -> None:
    photos.write_jpegs(tmp_path, count=8)
    job = Job("end-to-end", "ours", "mini", 4, warmup=1, min_steps=2, min_seconds=0, photos=str(tmp_path))
    found = measure.run_job(job)
    assert len(found["seconds"]) == 2 and np.isfinite(found["losses"]).all()
    assert works(2)["end-to-end-mini-128"].sides[0] == job.side
