# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""`samm segment`: one volume, and tables of them over real worker processes: one that dies, a bad row, an interruption."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import phantom
import psutil
import pytest
import SimpleITK as sitk

from samm_core.batch import cluster
from samm_core.batch.table import DONE, FAILED, read_table
from samm_core.batch.work import MANIFEST, Settings, jobs_of
from samm_core.models.parity import dice_of
from samm_ros import cli

# Few slices, each of which takes the encoder a second.
SIDES, MIDDLE = (64, 64, 5), 2
BOX = ("15", "15", "49", "49")
HEADER = "volume,segment,slice,box,propagate\n"


def truth(radius: float = 14) -> np.ndarray:
    """(K, J, I) bool: a ball, flattened."""
    k, j, i = np.indices(SIDES[::-1])
    return (i - 32) ** 2 + (j - 32) ** 2 + (3 * (k - MIDDLE)) ** 2 < radius**2


def write_ball(path: Path, seed: int = 0) -> Path:
    """A bright ball in noise."""
    voxels = np.random.default_rng(seed).normal(np.where(truth(), 180, 60), 8).astype(np.int16)
    return phantom.write_nrrd(path, voxels, np.diag([2.0, 2.0, 3.0, 1.0]))


@pytest.fixture
def ball(tmp_path: Path) -> Path:
    return write_ball(tmp_path / "ball.nrrd")


def segment(*arguments: str | Path) -> int:
    return cli.main(["segment", *map(str, arguments)])


def voxels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def report(folder: Path) -> dict[int, dict[str, str]]:
    with (folder / "report.csv").open(newline="") as file:
        return {int(each["line"]): each for each in csv.DictReader(file)}


def test_a_box_is_carried_through_the_volume_into_files_and_pictures(
    ball: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    before, out = ball.read_bytes(), tmp_path / "out"
    command = (
        ball,
        "--slice",
        MIDDLE,
        "--box",
        *BOX,
        "--propagate",
        "--segment=ball",
        "--format=nii.gz",
        "-o",
        out,
    )

    assert segment(*command) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert dice_of(voxels(out / "ball.seg.nrrd") > 0, truth()) > 0.9
    assert np.array_equal(voxels(out / "ball.nii.gz"), voxels(out / "ball.seg.nrrd"))
    assert all((out / name).stat().st_size > 5000 for name in ("montage.png", "surface.png"))
    assert f"ball {voxels(out / 'ball.seg.nrrd').sum()} " in shown
    assert "From slice 2 to slice 4: the volume ends." in shown

    written = (out / "ball.seg.nrrd").stat().st_mtime_ns
    assert segment(*command) == 0
    assert "done already" in capsys.readouterr().out
    assert (out / "ball.seg.nrrd").stat().st_mtime_ns == written
    assert segment(ball, "--slice=1", "--box", *BOX, "-o", out) == 2
    assert "other options" in capsys.readouterr().err
    assert ball.read_bytes() == before


def test_a_box_in_space_is_segmented_in_all_its_slices(ball: Path, tmp_path: Path) -> None:
    assert segment(ball, "--box3d", 32, 32, 2, 98, 98, 10, "-o", tmp_path / "out") == 0
    found, expected = voxels(tmp_path / "out" / "ball.seg.nrrd") > 0, truth()
    expected[[0, 4]] = False
    assert dice_of(found, expected) > 0.9


def test_an_input_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    ball = write_ball(tmp_path / "ball.seg.nrrd")
    before = ball.read_bytes()
    for more in [], ["--overwrite"]:
        assert segment(ball, "--slice", MIDDLE, "--box", *BOX, "-o", tmp_path, *more) == 2
        assert "is the volume" in capsys.readouterr().err
    assert ball.read_bytes() == before and os.listdir(tmp_path) == ["ball.seg.nrrd"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--slice=99", "--box", *BOX], "no axial slice 99; the volume has slices 0 to 4"),
        (["--slice=2", "--point", "400", "3"], "The point (400, 3) lies outside the slice of 64x64 pixels"),
        (["--slice=2"], "Nothing is marked"),
        (["--box3d", "900", "0", "0", "910", "9", "9"], "outside the volume"),
        (["--slice=2", "--box", *BOX, "--window=ct_knee"], "no window preset ct_knee"),
        (["--slice=2", "--box", *BOX, "--model=vit_z"], 'no model "vit_z"'),
        (["--slice=2", "--box", *BOX, "--format=jpeg"], "no format jpeg"),
        (["--slice=2", "--box", *BOX, "--format=dcm"], "ball.nrrd is none"),
        (["--from=prompts.csv"], "Give a volume, or a table"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence_and_leaves_nothing(
    ball: Path, tmp_path: Path, capsys: pytest.CaptureFixture, arguments: list[str], sentence: str
) -> None:
    out = tmp_path / "out"
    assert segment(ball, *arguments, "-o", out) == 2
    told = capsys.readouterr().err
    assert told.startswith("samm segment: ") and sentence in told and told.count("\n") == 1
    assert not out.exists()


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A table of three volumes, with a bad row and a volume that is not there."""
    for name in "abc":
        write_ball(tmp_path / f"{name}.nrrd", ord(name))
    box = " ".join(BOX)
    table = tmp_path / "prompts.csv"
    table.write_text(
        f"{HEADER}a.nrrd,ball,2,{box},\nb.nrrd,ball,2,{box},\nb.nrrd,bad,2,1 2 3,\n"
        f"absent.nrrd,ball,2,{box},\nc.nrrd,ball,2,{box},\nc.nrrd,low,1,{box},\n"
    )
    return table


def test_an_interrupted_table_leaves_what_is_done_and_goes_on_from_there(many: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-u", "-m", "samm_ros.cli", "segment", f"--from={many}", f"--output={out}"]
    run = subprocess.Popen(
        [*command, "--workers=1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with run:
        shown = ""
        for line in run.stdout:
            shown += line
            if line.startswith("a.nrrd: 1 of 1"):
                break
        # As a terminal's Ctrl-C: to the workers too.
        os.killpg(run.pid, signal.SIGINT)
        shown += run.stdout.read()
    assert run.returncode == 130, shown
    assert "Traceback" not in shown and "goes on from here" in shown
    first = report(out)
    assert first[2]["status"] == "done" and first[7]["status"] == "not done", first
    assert first[4]["status"] == "refused" and "box has 3 numbers" in first[4]["sentence"]
    done = (out / "a" / MANIFEST).stat().st_mtime_ns

    assert segment(f"--from={many}", f"--output={out}", "--workers=1") == 1

    last = report(out)
    assert (out / "a" / MANIFEST).stat().st_mtime_ns == done
    statuses = [last[line]["status"] for line in range(2, 8)]
    assert statuses == ["done", "done", "refused", "refused", "done", "done"]
    assert "no file or folder" in last[5]["sentence"]
    assert set(np.unique(voxels(out / "c" / "c.seg.nrrd"))) == {0, 1, 2}
    for name in "abc":
        assert dice_of(voxels(out / name / f"{name}.seg.nrrd")[MIDDLE] > 0, truth()[MIDDLE]) > 0.9


def test_the_volume_of_a_worker_that_dies_is_done_again_and_workers_listen_on_loopback_alone(
    many: Path, tmp_path: Path
) -> None:
    rows, _ = read_table(many)
    jobs = [job for job in jobs_of(rows, tmp_path / "out") if job.name in "ac"]
    settings = Settings()
    pids: dict[str, list[int]] = {job.volume: [] for job in jobs}
    victim = next(job for job in jobs if len(job.rows) == 2)

    def kill_the_first(event: Mapping[str, object]) -> None:
        seen = pids[event["volume"]]
        if event["pid"] not in seen:
            seen.append(event["pid"])
            if event["volume"] == victim.volume and len(seen) == 1:
                os.kill(event["pid"], signal.SIGKILL)

    with cluster.local_workers(2) as client:
        addresses = [client.scheduler.address, *client.scheduler_info(n_workers=-1)["workers"]]
        assert all(re.match(r"tls://127\.0\.0\.1:\d+$", address) for address in addresses)
        mine = [psutil.Process(), *psutil.Process().children(recursive=True)]
        listening = [
            c.laddr.ip for each in mine for c in each.net_connections("inet") if c.status == "LISTEN"
        ]
        assert set(listening) == {"127.0.0.1"}, listening
        outcomes = {
            job.name: of_job for job, of_job in cluster.segment_all(client, jobs, settings, kill_the_first)
        }

    assert len(pids[victim.volume]) == 2, "the volume was done by one worker, which was to die"
    assert {name: [each.status for each in of_job] for name, of_job in outcomes.items()} == {
        "a": [DONE],
        "c": [DONE, DONE],
    }
    assert FAILED not in str(outcomes)
    labels = voxels(tmp_path / "out" / "c" / "c.seg.nrrd")
    assert dice_of(labels[MIDDLE] > 0, truth()[MIDDLE]) > 0.9
    assert not [
        each for each in psutil.Process().children() if "multiprocessing.spawn" in " ".join(each.cmdline())
    ]
