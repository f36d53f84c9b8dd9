# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Tables of structures: what a row may say, what is refused with its line, and where each volume's files go."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from samm_core.batch import pictures
from samm_core.batch.table import DONE, REFUSED, Outcome, Row, read_table, write_report
from samm_core.batch.work import MANIFEST, Job, Settings, claim_folder, finished, jobs_of, stem_of
from samm_core.errors import MaskError, ModelError, OutputError, PromptError
from samm_core.geometry import Plane, VolumeGeometry
from samm_core.segmentation.segmentation import Segmentation

BOX = (30.0, 40.0, 120.0, 130.0)


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "prompts.csv"
    path.write_text(text)
    return path


def test_a_row_may_be_a_box_points_a_box_in_space_or_auto(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "volume,segment,plane,slice,box,points,negative,propagate,box3d,auto,window\n"
        "liver.nii.gz,liver,coronal,42,30 40 120 130,,,yes,,,ct_abdomen\n"
        "\n"
        "liver.nii.gz,tumour,,42,,95 80 97 81,120 60,,,,\n"
        "liver.nii.gz,spleen,all,,,,,,-80 12 -40 20 90 60,,\n"
        "/data/ct,all of it,sagittal,7,,,,,,yes,\n",
    )

    rows, refused = read_table(path)

    assert not refused
    liver = str(tmp_path / "liver.nii.gz")
    assert rows == [
        Row(liver, "liver", "coronal", 42, BOX, propagate=True, window="ct_abdomen", line=2),
        Row(liver, "tumour", "axial", 42, points_xy=((95, 80), (97, 81)), negative_xy=((120, 60),), line=4),
        Row(liver, "spleen", "all", box_ras=(-80, 12, -40, 20, 90, 60), line=5),
        Row("/data/ct", "all of it", "sagittal", 7, auto=True, line=6),
    ]
    assert rows[1].prompt.labels.tolist() == [1, 1, 0]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_spreadsheets_separator_is_taken(tmp_path: Path, separator: str) -> None:
    lines = ("volume,segment,slice,box", "a.nii,liver,42,30 40 120 130")
    path = table(tmp_path, "\ufeff" + "\n".join(line.replace(",", separator) for line in lines))
    assert read_table(path)[0][0].box_xyxy == BOX


@pytest.mark.parametrize(
    ("cells", "sentence"),
    [
        (",liver,axial,42,1 1 9 9,,,,,,", "The volume is missing"),
        ("a.nii,,axial,42,1 1 9 9,,,,,,", "no name"),
        ("a.nii,liver,oblique,42,1 1 9 9,,,,,,", "no plane oblique"),
        ("a.nii,liver,axial,,1 1 9 9,,,,,,", "The slice is missing"),
        ("a.nii,liver,axial,4.5,1 1 9 9,,,,,,", "The slice is '4.5'"),
        ("a.nii,liver,axial,42,1 1 9,,,,,,", "box has 3 numbers; give 4"),
        ("a.nii,liver,axial,42,1 1 9 x,,,,,,", "'1 1 9 x'"),
        ("a.nii,liver,axial,42,1 1 1 9,,,,,,", "has no area"),
        ("a.nii,liver,axial,42,,1 2 3,,,,,", "points has 3 numbers"),
        ("a.nii,liver,axial,42,,,,,,,", "Nothing is marked"),
        ("a.nii,liver,axial,42,1 1 9 9,,,maybe,,,", "'maybe'; give yes or no"),
        ("a.nii,liver,axial,42,1 1 9 9,,,,1 1 1 9 9 9,,", "More than one way"),
        ("a.nii,liver,axial,,,,,yes,1 1 1 9 9 9,,", "can be propagated"),
        ("a.nii,liver,all,42,1 1 9 9,,,,,,", "in all planes"),
        ("a.nii,liver,axial,42,,5 5,,,,yes,", "takes no points"),
        ("a.nii,liver,axial,42,1 1 9 9,,,,,,ct_knee", "no window preset ct_knee"),
        ("a.nii,liver,axial,42,1,1,9,9,,,,", "more cells than the header"),
        ("a.nii,good,axial,42,1 1 9 9,,,,,,", "good of a.nii is in line 2 already"),
    ],
)
def test_a_bad_row_is_refused_with_its_line_and_the_others_stay(
    tmp_path: Path, cells: str, sentence: str
) -> None:
    header = "volume,segment,plane,slice,box,points,negative,propagate,box3d,auto,window"
    good = "a.nii,{},axial,42,1 1 9 9,,,,,,"
    rows, refused = read_table(
        table(tmp_path, "\n".join([header, good.format("good"), cells, good.format("better")]))
    )
    assert [row.line for row in rows] == [2, 4]
    assert [(each.line, each.status) for each in refused] == [(3, REFUSED)]
    assert sentence in refused[0].sentence


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("volume,segment,colour\n", "a column 'colour', which is not known"),
        ("volume,slice\n", "no column segment"),
        ("volume,segment,box,box\n", "column box twice"),
        ("", "no column volume"),
    ],
)
def test_a_header_of_other_columns_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(PromptError, match=sentence):
        read_table(table(tmp_path, text))


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prompts.xlsx"
    path.write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(PromptError, match="not UTF-8"):
        read_table(path)


def test_a_report_has_a_line_per_outcome_in_the_tables_order(tmp_path: Path) -> None:
    second = Outcome(3, "/b.nii", "spleen", REFUSED, "The slice, 9, is missing.")
    write_report(tmp_path / "report.csv", [second, Outcome(2, "/a.nii", "liver", DONE, voxels=8, ml=0.0125)])
    with (tmp_path / "report.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [each["line"] for each in read] == ["2", "3"]
    assert (read[0]["voxels"], read[0]["ml"]) == ("8", "0.013")
    assert read[1]["sentence"] == second.sentence


def test_rows_of_one_volume_are_one_job_and_equal_names_have_folders_of_their_own(tmp_path: Path) -> None:
    rows = [
        Row(f"/{folder}/ct.nii.gz", name, slice_index=4, box_xyxy=BOX)
        for folder, name in (("one", "liver"), ("two", "liver"), ("one", "spleen"))
    ]
    rows.append(Row("/one/mr.nrrd", slice_index=4, box_xyxy=BOX))
    jobs = jobs_of(rows, tmp_path)
    assert [[row.segment for row in job.rows] for job in jobs] == [
        ["liver", "spleen"],
        ["liver"],
        ["segment"],
    ]
    assert len({job.folder for job in jobs}) == 3
    assert [job.name for job in jobs] == ["ct", "ct", "mr"]
    assert jobs[2].folder == str(tmp_path / "mr")
    assert jobs_of(rows[:1], tmp_path)[0].files(Settings()) == [tmp_path / "ct" / "ct.seg.nrrd"]


@pytest.mark.parametrize(
    ("file", "stem"),
    [
        ("a.b.nii.gz", "a.b"),
        ("a.SEG.nrrd", "a"),
        ("a.png.nii", "a.png"),
        ("ct.12", "ct.12"),
        ("scan.nii/", "scan.nii"),
    ],
)
def test_files_are_named_by_their_volume(tmp_path: Path, file: str, stem: str) -> None:
    if file.endswith("/"):
        (tmp_path / file).mkdir()
    assert stem_of(str(tmp_path / file)) == stem


def test_another_row_model_or_volume_is_another_request(tmp_path: Path) -> None:
    volume = tmp_path / "a.nii"
    volume.write_bytes(b"one")
    row = Row(str(volume), slice_index=4, box_xyxy=BOX, line=2)
    job = Job(str(volume), (row,), str(tmp_path / "out"), "a")
    key = job.key(Settings())
    assert replace(job, rows=(replace(row, line=9),)).key(Settings()) == key
    assert replace(job, rows=(replace(row, slice_index=5),)).key(Settings()) != key
    assert job.key(Settings(model="vit_b")) != key
    volume.write_bytes(b"more")
    assert job.key(Settings()) != key


def test_a_broken_manifest_is_none(tmp_path: Path) -> None:
    job = Job("/a.nii", (Row("/a.nii", slice_index=4, box_xyxy=BOX),), str(tmp_path), "a")
    assert finished(job, Settings()) is None
    (tmp_path / MANIFEST).write_text('{"complete": tr')
    assert finished(job, Settings()) is None


def test_only_an_empty_folder_or_that_of_the_same_run_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    claim_folder(folder, {"model": "one"}, overwrite=False)
    claim_folder(folder, {"model": "one"}, overwrite=False)
    with pytest.raises(OutputError, match="other options"):
        claim_folder(folder, {"model": "two"}, overwrite=False)
    claim_folder(folder, {"model": "two"}, overwrite=True)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("all there is")
    with pytest.raises(OutputError, match="holds files already"):
        claim_folder(tmp_path / "thesis", {}, overwrite=False)


def test_a_format_and_a_model_that_there_are_not_are_refused_before_the_work() -> None:
    with pytest.raises(MaskError, match="no format jpeg"):
        Settings(formats=("jpeg",)).check()
    with pytest.raises(ModelError, match="no model"):
        Settings(model="vit_z").check()


@pytest.mark.parametrize("flipped", [False, True])
def test_the_surface_turns_outwards_and_holds_the_volume(flipped: bool) -> None:
    """Whatever the axes' directions: shading shows a surface inside out otherwise."""
    matrix = np.diag([-2.0 if flipped else 2.0, 2.0, 3.0, 1.0])
    segmentation = Segmentation(VolumeGeometry((40, 40, 40), matrix))
    k, j, i = np.indices((40, 40, 40)) - 20
    ball = i**2 + j**2 + k**2 < 12**2
    for index in range(40):
        segmentation.apply(ball[index], Plane.AXIAL, index, "ball")
    triangles = pictures.triangles_ras(segmentation, segmentation.layer("ball"))
    body_mm3 = np.linalg.det(triangles).sum() / 6
    assert body_mm3 == pytest.approx(ball.sum() * 12, rel=0.03)
