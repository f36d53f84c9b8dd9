# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Training data are fetched from repositories at their commits: whole, once, or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tomllib", reason="training needs Python 3.11 or later")
sys.path.insert(0, str(Path(__file__).parents[1]))

from training.fetch import KINDS, TABLE, FetchError, fetch  # noqa: E402

COLOURS = {1: (255, 0, 0), 2: (0, 255, 0)}
VOXELS = np.arange(4 * 5 * 6).reshape(4, 5, 6).astype(np.int16)
AFFINE = np.diag([2.0, 3.0, 4.0, 1.0])


def commit(repository: Path) -> str:
    """Commit all files of a folder, as a new repository, and return the commit."""

    def git(*arguments: str) -> str:
        settings = ("user.name=a", "user.email=a@b", "commit.gpgsign=false", "uploadpack.allowFilter=true")
        options = [option for setting in settings for option in ("-c", setting)]
        command = ["git", "-C", str(repository), *options, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    git("config", "uploadpack.allowFilter", "true")
    git("add", ".")
    git("commit", "--quiet", "--message", "data")
    return git("rev-parse", "HEAD")


@pytest.fixture
def labels() -> np.ndarray:
    """(rows, columns) uint8: two objects of labels 1 and 2."""
    labels = np.zeros((40, 50), np.uint8)
    labels[5:15, 5:25] = 1
    labels[20:35, 30:45] = 2
    return labels


@pytest.fixture
def pictures(tmp_path: Path, labels: np.ndarray) -> Path:
    """A repository of two pictures with coloured masks, and a turned copy that is not to be taken."""
    repository = tmp_path / "published" / "pictures"
    for folder in ("images", "masks"):
        (repository / folder).mkdir(parents=True)
    mask = np.zeros((*labels.shape, 3), np.uint8)
    for number, colour in COLOURS.items():
        mask[labels == number] = colour
    for name in ("a_1", "b.2", "turned_a_1"):
        Image.fromarray(255 - mask).save(repository / "images" / f"{name}.png")
        Image.fromarray(mask).save(repository / "masks" / f"{name}.png")
    (repository / "film.bin").write_bytes(bytes(100))
    return repository


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    """A repository of one volume and its label map, which covers every second voxel on a coarser grid."""
    repository = tmp_path / "published" / "volumes"
    repository.mkdir(parents=True)
    nibabel.save(nibabel.Nifti1Image(VOXELS, AFFINE), repository / "scan.nii.gz")
    halves = np.ones((4, 5, 3), np.uint8)
    halves[..., 2] = 7
    coarse = AFFINE.copy()
    coarse[2, 2], coarse[2, 3] = 8, 2  # K of the coarse grid is at 2k + 0.5 of the fine one
    nibabel.save(nibabel.Nifti1Image(halves, coarse), repository / "scan_labels.nii.gz")
    return repository


def table(path: Path, **sources: dict) -> Path:
    """Write a table of sources, each with what the SOURCE.json of every source says."""
    lines = []
    for name, source in sources.items():
        said = {"licence": "CC0", "licence_from": "repository", "modality": "MR", "body_part": "none"}
        said |= {"weight": 2.0, "teacher": 0.5} | source
        lines += [f"[{name}]", 'labels = { 1 = "one" }', *(f"{k} = {json.dumps(v)}" for k, v in said.items())]
    path.write_text("\n".join(lines) + "\n")
    return path


def of_pictures(repository: Path, commit: str) -> dict:
    return {
        "url": repository.as_uri(),
        "commit": commit,
        "kind": "pictures",
        "images": "images/*.png",
        "masks": "masks/*.png",
        "colours": list(COLOURS.values()),
        "skip": ["turned*"],
    }


def of_volumes(repository: Path, commit: str) -> dict:
    files = {"images": "scan.nii.gz", "masks": "scan_labels.nii.gz"}
    return {"url": repository.as_uri(), "commit": commit, "kind": "volumes", **files}


def test_pictures_and_their_labels_are_fetched(tmp_path: Path, pictures: Path, labels: np.ndarray) -> None:
    of_them = of_pictures(pictures, commit(pictures))

    fetch(tmp_path / "sources", table=table(tmp_path / "sources.toml", both=of_them))

    made = tmp_path / "sources" / "both"
    names = {f"{case}_{what}.png" for case in ("000_a-1", "001_b-2") for what in ("image", "label")}
    assert {path.name for path in made.iterdir()} == names | {"SOURCE.json"}
    assert np.array_equal(np.asarray(Image.open(made / "001_b-2_label.png")), labels)
    said = json.loads((made / "SOURCE.json").read_text())
    assert said["commit"] == of_them["commit"] and said["cases"] == 2 and said["labels"] == {"1": "one"}
    assert not list((tmp_path / "sources" / ".repositories").rglob("film.bin")), "no more than is needed"


def test_labels_of_a_volume_are_laid_on_its_grid(tmp_path: Path, volumes: Path) -> None:
    of_it = of_volumes(volumes, commit(volumes))

    fetch(tmp_path / "sources", table=table(tmp_path / "sources.toml", scan=of_it))

    image = nibabel.load(tmp_path / "sources" / "scan" / "scan_image.nii.gz")
    label = nibabel.load(tmp_path / "sources" / "scan" / "scan_label.nii.gz")
    assert np.array_equal(np.asanyarray(image.dataobj), VOXELS) and np.allclose(image.affine, AFFINE)
    assert np.allclose(label.affine, AFFINE)
    assert np.asanyarray(label.dataobj)[0, 0].tolist() == [1, 1, 1, 1, 7, 7]


def test_a_second_fetch_does_nothing(tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture) -> None:
    sources = table(tmp_path / "sources.toml", both=of_pictures(pictures, commit(pictures)))
    fetch(tmp_path / "sources", table=sources)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "sources").rglob("*")}
    pictures.rename(tmp_path / "gone")
    capsys.readouterr()

    fetch(tmp_path / "sources", table=sources)

    assert capsys.readouterr().out == "both: kept\n"
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "sources").rglob("*")} == before


def test_a_newer_commit_replaces_what_is_there(tmp_path: Path, pictures: Path) -> None:
    old = of_pictures(pictures, commit(pictures))
    fetch(tmp_path / "sources", table=table(tmp_path / "sources.toml", both=old))
    for folder in ("images", "masks"):
        (pictures / folder / "a_1.png").unlink()

    new = of_pictures(pictures, commit(pictures))
    fetch(tmp_path / "sources", table=table(tmp_path / "sources.toml", both=new))

    made = tmp_path / "sources" / "both"
    assert sorted(path.name for path in made.glob("*.png")) == ["000_b-2_image.png", "000_b-2_label.png"]
    assert json.loads((made / "SOURCE.json").read_text())["commit"] == new["commit"]


def test_a_wrong_commit_is_refused_and_the_others_are_fetched(
    tmp_path: Path, pictures: Path, volumes: Path
) -> None:
    wrong = of_pictures(pictures, commit(pictures)) | {"commit": "0" * 39 + "1"}
    sources = table(tmp_path / "sources.toml", wrong=wrong, scan=of_volumes(volumes, commit(volumes)))

    with pytest.raises(
        FetchError, match=f"1 of 2 sources failed: wrong: commit {wrong['commit']} of .* cannot be fetched"
    ):
        fetch(tmp_path / "sources", table=sources)

    made = {path.name for path in (tmp_path / "sources").iterdir()}
    assert made == {"scan", ".repositories"}, "nothing half made"


def test_a_mask_too_few_is_refused_and_nothing_is_left(tmp_path: Path, pictures: Path) -> None:
    (pictures / "masks" / "b.2.png").unlink()
    sources = table(tmp_path / "sources.toml", both=of_pictures(pictures, commit(pictures)))

    with pytest.raises(FetchError, match=r"2 images images/\*\.png have 1 masks"):
        fetch(tmp_path / "sources", table=sources)

    assert not list((tmp_path / "sources").rglob("*unfinished*")) and not (tmp_path / "sources/both").exists()


def test_an_unknown_name_is_told_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"No source is called lungs; sources\.toml has .*openkbp"):
        fetch(tmp_path, ["lungs"])


def test_every_source_of_the_table_is_pinned_and_says_its_licence() -> None:
    import tomllib

    for name, source in tomllib.loads(TABLE.read_text()).items():
        assert source["kind"] in KINDS, name
        assert "package" in source or len(source["commit"]) == 40, name
        assert source["licence"] and source["licence_from"], name
