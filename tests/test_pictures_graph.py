# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Pictures over real DDS: loaded, or brought by their prompts; marked again, in other windows, malformed, lost and back."""

from __future__ import annotations

import uuid
from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from peer import Peer
from PIL import Image as PillowImage
from samm_msgs.msg import PicturePrompt, Prompt, SliceMask, VolumeList
from samm_msgs.srv import LoadPicture
from sensor_msgs.msg import Image

from samm_core.cycle.request import Answer, ClientPrompt
from samm_core.errors import MaskError, PromptError, VolumeError
from samm_core.geometry import Plane
from samm_core.latency.events import Task
from samm_core.models.parity import dice_of
from samm_core.prompts import pixel_box, pixel_points
from samm_core.sources.picture import MAX_PICTURES, picture_volume
from samm_core.sources.window import Window
from samm_ros import cli, conversions, topics
from samm_ros.client import GraphClient
from samm_ros.support.images import array_from_image, image_to_msg

pytestmark = [pytest.mark.xdist_group("graph"), pytest.mark.timeout(400)]

SHAPE = (96, 128)
CENTRE_XY = (70, 44)
DISC = np.hypot(*(np.mgrid[:96, :128] - np.array(CENTRE_XY[::-1]).reshape(2, 1, 1))) < 22
BOX = pixel_box(Plane.AXIAL, 0, 46, 20, 94, 68)


def colours(seed: int) -> np.ndarray:
    """(H, W, 3) uint8: a red disc on brown; each seed makes a picture that no graph has seen."""
    noise = np.random.default_rng(seed).normal(0, 6, (*SHAPE, 3))
    return (np.where(DISC[..., None], (200, 60, 50), (90, 80, 60)) + noise).clip(0, 255).astype(np.uint8)


@pytest.fixture
def seed() -> int:
    return uuid.uuid4().int % 2**32


@pytest.fixture
def client(shared_graph: str) -> Iterator[GraphClient]:
    with GraphClient(shared_graph, f"endoscope-{uuid.uuid4().hex[:8]}") as client:
        yield client


@pytest.fixture
def peer(shared_graph: str) -> Iterator[Peer]:
    with Peer(shared_graph) as peer:
        yield peer


def hit(client: GraphClient, answer: Answer) -> bool:
    """Whether the picture was embedded already when the request came."""

    def completed() -> list:
        return [
            each.completion
            for each in client.events
            if (each.task, each.client_id, each.cycle) == (Task.CPL_INF, client.client_id, answer.cycle)
            and each.completion
        ]

    client.wait_for(lambda: bool(completed()), "the event of the mask", 30.0)
    return completed()[-1].embedding_hit


def voxels(client: GraphClient, segment: str) -> int:
    of_volume = client.segmentation_of(client.volume.uid)
    return next((each.voxels for each in of_volume.segments if each.name == segment), 0) if of_volume else 0


def test_a_picture_comes_with_its_prompt_and_again_costs_no_encoding(
    client: GraphClient, seed: int, tmp_path: Path
) -> None:
    picture = colours(seed)
    answer = client.prompt_picture(picture, BOX, "disc")

    assert answer.image.source == picture_volume(picture).uid == client.volume.uid
    assert (answer.image.key.plane, answer.image.key.index) == (Plane.AXIAL, 0)
    assert answer.mask.shape == SHAPE and dice_of(answer.mask, DISC) > 0.95
    assert not hit(client, answer)
    client.wait_for(lambda: voxels(client, "disc") == answer.mask.sum(), "the mask to be applied", 30.0)

    # With alpha, and in whichever plane the prompt says, it is the same picture.
    alpha = np.dstack([picture, np.full(SHAPE, 99, np.uint8)])
    elsewhere = replace(pixel_points(Plane.SAGITTAL, 7, [CENTRE_XY]), in_ras=False)
    again = client.prompt_picture(alpha, elsewhere, "point")
    assert again.image == answer.image and hit(client, again)
    # It is loaded, as any volume: a prompt that brings nothing is answered on it.
    plain = client.prompt(BOX, "plain")
    assert np.array_equal(plain.mask, answer.mask) and hit(client, plain)

    client.save(tmp_path / "out.mask.png")
    labels = np.array(PillowImage.open(tmp_path / "out.mask.png"))
    assert labels.shape == SHAPE and (labels[DISC] > 0).mean() > 0.9
    with pytest.raises(MaskError, match="is in no file that could be loaded again"):
        client.save_work(tmp_path / "out.samm")
    client.undo()
    client.wait_for(lambda: voxels(client, "plain") == 0, "the change to be taken back", 30.0)


def test_a_picture_is_loaded_as_a_volume_is(client: GraphClient, seed: int) -> None:
    picture = colours(seed)
    volume = client.load_picture(picture, "frame 12")
    assert (volume.name, volume.uri) == ("frame 12", "")
    assert volume.geometry.dimensions == (*SHAPE[::-1], 1) and volume.uid == picture_volume(picture).uid
    answer = client.prompt(BOX, "disc")
    assert answer.image.source == volume.uid and dice_of(answer.mask, DISC) > 0.95
    assert client.prompt_picture(picture, BOX, "disc").image == answer.image
    # In the other planes a picture is a line: they are not embedded ahead.
    client.embed([], lambda status: None, 60.0)
    client.wait_for(
        lambda: (client.status.volume_uid, list(client.status.done)) == (volume.uid, [1, 0, 0]),
        "the picture to be embedded",
        30.0,
    )
    assert not client.status.sweeping


def test_in_another_window_it_is_another_image(client: GraphClient, seed: int) -> None:
    """16 bits: a disc that one window shows, and a square that another one does."""
    noise = np.random.default_rng(seed).normal(0, 20, SHAPE)
    square = np.zeros(SHAPE, bool)
    square[24:64, 50:90] = True
    deep = (1000 + 1000 * DISC + noise).astype(np.uint16)
    deep[~DISC & ~square] = 40000
    low = client.prompt_picture(deep, BOX, "low", window=Window(800, 2200))
    high = client.prompt_picture(deep, BOX, "high", window=Window(2000, 40000))
    again = client.prompt_picture(deep, BOX, "low", window=Window(800, 2200))

    assert low.image.source == high.image.source and low.image != high.image
    assert not hit(client, low) and not hit(client, high) and hit(client, again)
    assert np.array_equal(low.mask, again.mask) and not np.array_equal(low.mask, high.mask)


def test_what_no_message_holds_is_refused_here(client: GraphClient) -> None:
    with pytest.raises(VolumeError, match="type float64; give 8 or 16 bits without sign"):
        client.prompt_picture(np.zeros((9, 9)), BOX)
    with pytest.raises(PromptError, match=r"The box \(460, 20, 940, 68\) lies outside"):
        client.prompt_picture(colours(0), pixel_box(Plane.AXIAL, 0, 460, 20, 940, 68))


def message(picture: Image, client_id: str, segment: str = "disc", **fields: object) -> PicturePrompt:
    prompt = conversions.prompt_to_msg(ClientPrompt.of(BOX, client_id, segment))
    for name, value in fields.items():
        setattr(prompt, name, value)
    return PicturePrompt(picture=picture, prompt=prompt)


@pytest.mark.parametrize("encoding", ["rgba8", "bgr8", "mono8", "mono16"])
def test_a_ros_program_sends_any_encoding(peer: Peer, seed: int, encoding: str) -> None:
    rgb = colours(seed)
    grey = rgb[..., 0]
    sent = {
        "rgba8": np.dstack([rgb, grey]),
        "bgr8": rgb[..., ::-1],
        "mono8": grey,
        "mono16": (grey.astype(np.uint16) << 8).astype(">u2"),
    }[encoding]
    picture = Image(height=SHAPE[0], width=SHAPE[1], encoding=encoding, is_bigendian=encoding == "mono16")
    # Rows with something behind them, as a driver may align them.
    rows = np.frombuffer(sent.tobytes(), np.uint8).reshape(SHAPE[0], -1)
    padded = np.pad(rows, ((0, 0), (0, 24)), constant_values=77)
    picture.step, picture.data = padded.shape[1], array("B", padded.tobytes())
    expected = picture_volume({"mono8": grey, "mono16": grey.astype(np.uint16) << 8}.get(encoding, rgb))

    client_id = f"ros-{uuid.uuid4().hex[:8]}"
    peer.listen(SliceMask, topics.RECEIVED_MASKS, topics.OF_ALL_CLIENTS)
    publisher = peer.publisher(PicturePrompt, topics.PICTURE_PROMPTS, topics.PICTURES)
    answer = peer.publish_until(
        publisher,
        message(picture, client_id),
        topics.RECEIVED_MASKS,
        lambda mask: mask.client_id == client_id,
    )

    assert not answer.error and answer.image.source == expected.uid
    assert dice_of(conversions.answer_from_msg(answer).mask, DISC) > 0.9


@pytest.mark.parametrize(
    ("change", "fields", "sentence"),
    [
        ({"step": 3}, {}, "The image's step is 3 bytes"),
        ({"encoding": "jpeg2000"}, {}, "The image's encoding 'jpeg2000' is not known"),
        ({"data": array("B", [1, 2, 3])}, {}, "The image has 3 bytes of its 36864"),
        ({"height": 0}, {}, "128 x 0"),
        ({}, {"coordinates": Prompt.RAS}, "A picture has no place in a patient"),
        ({}, {"has_box": False}, "The prompt is empty"),
    ],
    ids=["step", "encoding", "data", "height", "RAS", "empty"],
)
def test_what_is_malformed_is_refused_in_a_sentence(
    peer: Peer, change: dict[str, object], fields: dict[str, object], sentence: str
) -> None:
    picture = image_to_msg(colours(1))
    for name, value in change.items():
        setattr(picture, name, value)
    client_id = f"bad-{uuid.uuid4().hex[:8]}"
    peer.listen(SliceMask, topics.RECEIVED_MASKS, topics.OF_ALL_CLIENTS)
    publisher = peer.publisher(PicturePrompt, topics.PICTURE_PROMPTS, topics.PICTURES)
    answer = peer.publish_until(
        publisher,
        message(picture, client_id, **fields),
        topics.RECEIVED_MASKS,
        lambda mask: mask.client_id == client_id,
    )
    assert sentence in answer.error and answer.error.endswith(".")
    if change:
        response = peer.call(LoadPicture, topics.LOAD_PICTURE, LoadPicture.Request(picture=picture))
        assert not response.success and sentence in response.message and not response.volume.uid


def test_the_overlay_shows_the_picture_that_came_with_the_prompt(
    client: GraphClient, peer: Peer, seed: int
) -> None:
    peer.listen(Image, topics.OVERLAY, topics.NEWEST)
    picture = colours(seed)
    answer = client.prompt_picture(picture, BOX, "disc")
    outside = ~answer.mask

    def shows(message: Image) -> bool:
        shown = array_from_image(message)
        return shown.shape == picture.shape and bool((shown[outside] == picture[outside]).all())

    peer.wait_for(topics.OVERLAY, shows, 30.0)


def test_pictures_do_not_pile_up(client: GraphClient, peer: Peer, seed: int, mni_path: Path) -> None:
    mni = client.load(mni_path)
    peer.listen(VolumeList, topics.VOLUMES, topics.LATCHED)
    pictures = np.random.default_rng(seed).integers(0, 256, (MAX_PICTURES + 3, 8, 8), np.uint8)
    uids = [picture_volume(each).uid for each in pictures]
    for each in pictures:
        response = peer.call(
            LoadPicture, topics.LOAD_PICTURE, LoadPicture.Request(picture=image_to_msg(each))
        )
        assert response.success

    def held(message: VolumeList) -> list[str]:
        return [volume.uid for volume in message.volumes]

    newest = peer.wait_for(topics.VOLUMES, lambda each: uids[-1] in held(each))
    assert mni.uid in held(newest)
    assert [uid for uid in held(newest) if uid != mni.uid][:MAX_PICTURES] == uids[: -MAX_PICTURES - 1 : -1]
    assert uids[0] not in held(newest) and uids[2] not in held(newest)
    # One that the server let go of is loaded again with its prompt.
    again = client.prompt_picture(pictures[0], pixel_box(Plane.AXIAL, 0, 1, 1, 6, 6), "small")
    assert again.image.source == uids[0]


def test_the_command_line_takes_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    PillowImage.fromarray(colours(2)).save(tmp_path / "p.bmp")
    box = ("--box", "46", "20", "94", "68")
    out = str(tmp_path / "out")
    assert cli.main(["segment", str(tmp_path / "p.bmp"), *box, "--propagate", "-o", out]) == 2
    assert "A picture has no other slices to propagate to" in capsys.readouterr().err
    assert cli.main(["segment", str(tmp_path / "p.bmp"), *box, "-o", out]) == 0
    assert "manifest.json, overlay.png, p.mask.png, p.seg.nrrd" in capsys.readouterr().out
    assert dice_of(np.array(PillowImage.open(tmp_path / "out" / "p.mask.png")) == 1, DISC) > 0.95
