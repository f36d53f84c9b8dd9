# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Published checkpoints: their addresses and checksums, and a download that leaves no wrong file."""

from __future__ import annotations

import hashlib
import os
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from ..errors import ModelError

_META = "https://dl.fbaipublicfiles.com/segment_anything"
_BLOCK = 1 << 20
_TIMEOUT_S = 30

# Called with the number of bytes that are here and the number there will be.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Weights:
    """One published checkpoint.

    page: where its publisher describes it. url: its direct address; None: there is none, and size and sha256 are unknown.
    size: bytes. sha256: hexadecimal.
    """

    file_name: str
    page: str
    url: str | None = None
    size: int = 0
    sha256: str = ""


# Sizes and SHA-256 are those that downstream projects pin; micro-sam pins all four digests. The six digits in Meta's file
# names belong to the MD5.
WEIGHTS = {
    "vit_b": Weights(
        "sam_vit_b_01ec64.pth",
        "https://github.com/facebookresearch/segment-anything#model-checkpoints",
        f"{_META}/sam_vit_b_01ec64.pth",
        375_042_383,
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    "vit_l": Weights(
        "sam_vit_l_0b3195.pth",
        "https://github.com/facebookresearch/segment-anything#model-checkpoints",
        f"{_META}/sam_vit_l_0b3195.pth",
        1_249_524_607,
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    "vit_h": Weights(
        "sam_vit_h_4b8939.pth",
        "https://github.com/facebookresearch/segment-anything#model-checkpoints",
        f"{_META}/sam_vit_h_4b8939.pth",
        2_564_550_879,
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
    "mobile_sam": Weights(
        "mobile_sam.pt",
        "https://github.com/ChaoningZhang/MobileSAM",
        "https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt",
        40_728_226,
        "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
    ),
    "medsam_vit_b": Weights("medsam_vit_b.pth", "https://github.com/bowang-lab/MedSAM#get-started"),
}


def weights_folder() -> Path:
    """The folder of the checkpoints: $SAMM_HOME/weights, or ~/.cache/samm/weights."""
    return Path(os.environ.get("SAMM_HOME") or "~/.cache/samm").expanduser() / "weights"


def download(name: str, folder: Path | None = None, progress: Progress | None = None) -> Path:
    """Fetch the published checkpoint of a model, unless it is there already, and return its path.

    folder: where to put it; None: weights_folder(). A download that broke off is resumed. The file appears under its name
    only when its checksum is right.

    Raises ModelError, saying what to do by hand, when there is no such file, no network, no room, or a wrong checksum.
    """
    if name not in WEIGHTS:
        raise ModelError(f'There are no weights to fetch for "{name}"; give one of {", ".join(WEIGHTS)}.')
    weights = WEIGHTS[name]
    target = (folder or weights_folder()) / weights.file_name
    if weights.url is None:
        if target.is_file():
            return target
        raise ModelError(f"{name} has no direct address: get it from {weights.page} and save it as {target}")
    if target.is_file() and _sha256(target) == weights.sha256:
        return target
    part = target.with_name(target.name + ".part")
    by_hand = f"get {weights.url} by hand and save it as {target}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch(weights, part, progress or (lambda done, total: None))
        size = part.stat().st_size
        if size < weights.size:
            raise ModelError(
                f"The download of {name} broke off at {size} of {weights.size} bytes; try again, or {by_hand}"
            )
        if _sha256(part) != weights.sha256:
            part.unlink()
            raise ModelError(
                f"The download of {name} had a wrong checksum and was deleted; try again, or {by_hand}"
            )
        os.replace(part, target)
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise ModelError(f"{name} could not be fetched ({reason}); try again, or {by_hand}") from error
    return target


def _fetch(weights: Weights, part: Path, progress: Progress) -> None:
    """Bring `part` to the published size, or as far as the server sends; never beyond it."""
    done = part.stat().st_size if part.exists() else 0
    if done > weights.size:
        done = 0
    if done == weights.size:
        return
    request = urllib.request.Request(weights.url, headers={"User-Agent": "samm_ros"})
    if done:
        request.add_header("Range", f"bytes={done}-")
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as reply:
        if reply.status != 206:  # the server does not resume, and sends the whole file
            done = 0
        with open(part, "r+b" if done else "wb") as file:
            file.seek(done)
            progress(done, weights.size)
            while done < weights.size and (block := reply.read(min(_BLOCK, weights.size - done))):
                file.write(block)
                done += len(block)
                progress(done, weights.size)
            file.flush()
            os.fsync(file.fileno())


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
