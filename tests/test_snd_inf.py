# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""SND_INF in a process of its own, or with the client's other nodes, and a peer as all that it is not."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from peer import Peer
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.serialization import serialize_message
from samm_msgs.msg import (
    ClientCycles,
    ModelInfo,
    PicturePrompt,
    Prompt,
    SegmentationStatus,
    SliceMask,
    SliceRequest,
    VolumeInfo,
    VolumeList,
)
from samm_msgs.srv import LoadVolume

from samm_core.cycle.request import Answer, ClientPrompt
from samm_core.geometry import Plane
from samm_core.mask_codec import encode_mask
from samm_core.prompts import pixel_box
from samm_ros import conversions, topics
from samm_ros.support.images import image_to_msg
from samm_ros.support.unread import publisher_of, unread_prompt

pytestmark = pytest.mark.timeout(200)

PROMPT = pixel_box(Plane.AXIAL, 3, 5, 5, 20, 20)


class World:
    """What SND_INF lives among."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.loads: list[LoadVolume.Request] = []
        self.answer = LoadVolume.Response(success=True)
        create = peer.node.create_publisher
        self._volumes = create(VolumeList, topics.VOLUMES, topics.LATCHED)
        self._model = create(ModelInfo, topics.MODEL_INFO, topics.LATCHED)
        self._status = create(SegmentationStatus, topics.SEGMENTATION_STATUS, topics.LATCHED)
        self._prompts = create(Prompt, topics.PROMPTS, topics.NEWEST)
        self._server, self._service = "", None

    def tell_volumes(self, server: str, **fields: object) -> None:
        """What a server says. Another one than before has a service of its own."""
        if server != self._server:
            if self._service:
                self.peer.node.destroy_service(self._service)
            self._service = self.peer.node.create_service(LoadVolume, topics.LOAD_VOLUME, self._on_load)
            self._server = server
        self._volumes.publish(VolumeList(server=server, **fields))

    def _on_load(self, request: LoadVolume.Request, response: LoadVolume.Response) -> LoadVolume.Response:
        self.loads.append(request)
        return self.answer

    def show(self, uid: str, upper: float = 1.0, server: str = "one", **fields: object) -> None:
        """A server has this volume, and no other."""
        self.tell_volumes(server, volumes=[self.info(uid, upper, **fields)])

    @staticmethod
    def info(uid: str, upper: float = 1.0, **fields: object) -> VolumeInfo:
        info = VolumeInfo(uid=uid, name=uid, uri=f"/{uid}.nii", dimensions=[30, 40, 50], **fields)
        info.ijk_to_ras = np.eye(4).ravel()
        info.window_upper = upper
        return info

    def say_none(self, error: str = "", server: str = "one") -> None:
        self.tell_volumes(server, error=error)

    def say_model(self, name: str, error: str = "") -> None:
        self._model.publish(ModelInfo(name=name, error=error))

    def say_settled(self, client_id: str, cycle: int) -> None:
        clients = [ClientCycles(client_id=client_id, requested=cycle, settled=cycle)]
        self._status.publish(SegmentationStatus(clients=clients))

    def request(self, client_id: str, volume_uid: str, asked_for: str = "") -> SliceRequest:
        """Prompt until that is sent to the server for the volume `volume_uid`; asked_for: what the prompt names."""
        return self.peer.do_until(
            lambda: self.prompt(client_id, asked_for),
            topics.SLICE_REQUESTS,
            lambda m: (m.client_id, m.image.source) == (client_id, volume_uid),
        )

    def refuses(self, client_id: str, sentence: str, asked_for: str = "", segment: str = "") -> SliceMask:
        """Prompt until that is refused with this sentence."""
        return self.peer.do_until(
            lambda: self.prompt(client_id, asked_for, segment),
            topics.MASKS,
            lambda m: m.client_id == client_id and sentence in m.error,
        )

    def prompt(self, client_id: str, volume_uid: str = "", segment: str = "") -> None:
        self._prompts.publish(
            conversions.prompt_to_msg(ClientPrompt.of(PROMPT, client_id, segment, volume_uid))
        )


@contextmanager
def started(nodes: str, namespace: str, *arguments: str) -> Iterator[None]:
    code = f"from samm_ros.nodes.{nodes} import main; main()"
    ros = ["--ros-args", "-r", f"__ns:=/{namespace}", "-r", f"/diagnostics:=/{namespace}/diagnostics"]
    process = subprocess.Popen([sys.executable, "-c", code, *ros, *arguments])
    try:
        yield
        assert process.poll() is None, "it ended"
    finally:
        process.kill()
        process.wait()


@contextmanager
def world(namespace: str, *arguments: str, settled: int = 1) -> Iterator[World]:
    with Peer(namespace) as peer:
        world = World(peer)
        world.say_settled("surgeon", settled)
        with started("snd_inf", namespace, *arguments):
            peer.listen(SliceRequest, topics.SLICE_REQUESTS, topics.OF_ALL_CLIENTS)
            peer.listen(SliceMask, topics.MASKS, topics.OF_ALL_CLIENTS)
            yield world


def test_a_client_hears_why_there_is_no_model_or_volume(namespace: str) -> None:
    with world(namespace) as at:
        at.say_none("There is no file liver.nii; give another.")
        at.refuses("a", "There is no file liver.nii; give another.")
        at.say_model("", "There is no model bogus; there are lite_medsam.")
        at.refuses("a", "There is no model bogus; there are lite_medsam.")
        at.say_model("lite_medsam")
        at.show("x")
        at.request("a", "x")
        at.refuses("a", "give a printable name", segment="a\tb")
        at.refuses("e\n", "give a printable name")


def test_a_pictures_prompt_without_a_server_is_refused_after_a_while(namespace: str) -> None:
    picture = PicturePrompt(picture=image_to_msg(np.zeros((48, 64), np.uint8)))
    picture.prompt = conversions.prompt_to_msg(ClientPrompt.of(PROMPT, "a"))
    damaged = PicturePrompt(prompt=conversions.prompt_to_msg(ClientPrompt.of(PROMPT, "b")))
    with world(namespace) as at:
        pictures = at.peer.publisher(PicturePrompt, topics.PICTURE_PROMPTS, topics.PICTURES)
        heard = at.peer.publish_until(pictures, damaged, topics.MASKS, lambda m: m.client_id == "b")
        at.say_settled("b", heard.cycle)
        at.peer.pause(2.0)
        # Once, and when nothing else is under way: both would have it looked at again.
        pictures.publish(picture)
        refused = at.peer.wait_for(topics.MASKS, lambda m: m.client_id == "a")
        assert refused.error == "No server has said yet which volume is loaded; is one running?"


def test_the_clients_volume_comes_back_whatever_a_restarted_server_came_back_with(namespace: str) -> None:
    with world(namespace) as at:
        at.show("at start", at_start=True)
        at.request("a", "at start")
        at.show("chosen", upper=80.0)
        at.request("a", "chosen")
        for client, came_back in (
            ("b", lambda: at.show("at start", at_start=True, server="two")),
            ("c", lambda: at.say_none(server="three")),
        ):
            at.loads.clear()
            at.peer.heard[topics.MASKS].clear()
            came_back()
            at.peer.wait_until(lambda: at.loads, "call of load_volume")
            assert (at.loads[0].path, at.loads[0].window_upper) == ("/chosen.nii", 80.0)
            at.prompt(client, "chosen")
            at.peer.pause(1.0)
            assert not at.peer.heard[topics.MASKS], "refused, though its volume is on its way"
            at.show("chosen", upper=80.0, server={"b": "two", "c": "three"}[client])
            at.request(client, "chosen", "chosen")
        # Nobody fights a load that somebody chose.
        at.loads.clear()
        at.show("of another client", server="three")
        at.request("a", "of another client")
        assert not at.loads


def test_a_volume_that_cannot_be_loaded_again_gives_way_to_what_the_server_has(namespace: str) -> None:
    with world(namespace) as at:
        at.show("gone")
        at.request("a", "gone")
        at.answer = LoadVolume.Response(message="There is no file or folder /gone.nii.")
        at.show("at start", at_start=True, server="two")
        at.request("a", "at start")
        at.refuses("c", "The volume gone is not loaded", "gone")


def test_a_volume_whose_file_changed_meanwhile_gives_way_to_what_it_is_now(namespace: str) -> None:
    with world(namespace) as at:
        at.show("before")
        at.request("a", "before")
        at.answer = LoadVolume.Response(success=True, volume=at.info("now"))
        at.say_none(server="two")
        at.peer.wait_until(lambda: at.loads, "call of load_volume")
        at.request("b", "now")
        at.refuses("c", "The volume before is not loaded", "before")


def test_all_volumes_that_clients_loaded_come_back_and_the_one_loaded_last_is_loaded_last(
    namespace: str,
) -> None:
    with world(namespace) as at:
        loaded = [at.info("last"), at.info("first")]
        at.tell_volumes("one", volumes=loaded)
        at.request("a", "last")
        at.request("b", "first", "first")
        at.say_none(server="two")
        at.peer.wait_until(lambda: len(at.loads) == 2, "two calls of load_volume")
        assert [request.path for request in at.loads] == ["/first.nii", "/last.nii"]
        at.tell_volumes("two", volumes=loaded)
        at.request("c", "first", "first")


def test_requests_are_sent_again_though_ros_time_stands_still(namespace: str) -> None:
    with world(namespace, "-p", "use_sim_time:=true") as at:
        at.show("x")
        at.request("a", "x")
        cycles = lambda: [m.cycle for m in at.peer.heard[topics.SLICE_REQUESTS]]  # noqa: E731
        at.peer.wait_until(lambda: len(cycles()) > len(set(cycles())), "request sent again")


def test_how_soon_a_request_is_sent_again_can_be_set_while_it_runs(namespace: str) -> None:
    def set_to(seconds: float) -> bool:
        value = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=seconds)
        request = SetParameters.Request(parameters=[Parameter(name="resend_after", value=value)])
        return at.peer.call(SetParameters, "snd_inf/set_parameters", request).results[0].successful

    with world(namespace, "-p", "resend_after:=60.0") as at:
        at.show("x")
        assert not set_to(-1.0)
        first = at.request("a", "x")
        assert set_to(0.1)
        heard = at.peer.heard[topics.SLICE_REQUESTS]
        at.peer.wait_until(
            lambda: sum(m.cycle == heard[-1].cycle for m in heard) >= 3,
            f"resend of {first.cycle} or a newer one",
        )


def test_masks_are_applied_after_a_restart_with_the_clock_set_back(namespace: str) -> None:
    """SND_INF numbers on from what APL_MSK has settled, not from the clock."""
    ahead = 2**53
    with world(namespace, settled=ahead) as at:
        at.show("x")
        assert at.request("surgeon", "x").cycle > ahead


@contextmanager
def dragged(at: World, client_id: str) -> Iterator[None]:
    """A client prompts without an end meanwhile."""
    done = threading.Event()

    def drag() -> None:
        while not done.wait(0.01):
            at.prompt(client_id)

    thread = threading.Thread(target=drag)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_while_a_prompt_is_dragged_what_is_shown_is_stale_as_long_as_the_server_has_stopped(
    namespace: str,
) -> None:
    with Peer(namespace) as peer:
        at = World(peer)
        runs = threading.Event()
        masks = peer.node.create_publisher(SliceMask, topics.MASKS, topics.OF_ALL_CLIENTS)

        def serve(message: SliceRequest) -> None:
            request = conversions.request_from_msg(message)
            mask = np.zeros(request.shape, bool)
            mask[: 1 + request.cycle % 9, :9] = True
            target = (request.cycle, request.client_id, request.segment, request.image, request.shape)
            if runs.is_set():
                answer = Answer(*target, data=encode_mask(mask))
                masks.publish(conversions.answer_to_msg(answer, 1, message.header.stamp))

        peer.node.create_subscription(SliceRequest, topics.SLICE_REQUESTS, serve, topics.OF_ALL_CLIENTS)
        at.show("x")
        with started("samm_client", namespace):
            peer.listen(SegmentationStatus, topics.SEGMENTATION_STATUS, topics.LATCHED)
            told = peer.heard[topics.SEGMENTATION_STATUS]
            with dragged(at, "a"):
                for _ in range(2):
                    runs.set()
                    applied = told[-1].applied if told else 0
                    peer.wait_until(
                        lambda: told and told[-1].applied > applied + 5 and not told[-1].stale,  # noqa: B023
                        "mask of a running server",
                    )
                    runs.clear()
                    peer.wait_until(lambda: told[-1].stale, "stale mask of a stopped server")


@pytest.mark.parametrize("client_id", ["", "a", "surgeon", "Ärztin 2"])
@pytest.mark.parametrize("frame_id", ["", "ras", "a frame"])
def test_whose_prompt_bytes_are_is_known_without_reading_them(client_id: str, frame_id: str) -> None:
    def told(segment: str, index: int = 3, window: float = 80.0, x: float = 5.0, number: int = 7) -> object:
        prompt = pixel_box(Plane.AXIAL, 3, x, 5, 20, 20)
        message = conversions.prompt_to_msg(ClientPrompt.of(prompt, client_id, segment, "a volume"))
        message.header.frame_id, message.cycle, message.image.index = frame_id, number, index
        message.image.window_upper = window
        return unread_prompt(serialize_message(message), "nobody", 5)

    prompt = told("liver")
    assert (prompt.client_id, prompt.cycle) == (client_id or "nobody", 7)
    read = prompt.read()
    assert (read.client_id, read.cycle, read.segment, read.came_ns) == (prompt.client_id, 7, "liver", 5)
    assert prompt.target == told("liver", x=9.0, number=8).target
    others = [told("spleen"), told("liver", index=4), told("liver", window=90.0)]
    assert prompt.target not in [other.target for other in others]
    # The place of the marks says which slice it is.
    assert told("liver", index=-1).target == ()


def test_damaged_prompt_bytes_are_a_prompt_with_a_problem() -> None:
    whole = serialize_message(conversions.prompt_to_msg(ClientPrompt.of(PROMPT, "a", "liver")))
    for length in range(len(whole)):
        assert unread_prompt(whole[:length], "nobody", 0).client_id in ("a", "nobody")
    assert "damaged" in unread_prompt(whole[:20], "nobody", 0).read().problem


def test_the_publisher_of_a_mask_is_known_without_reading_it() -> None:
    message = SliceMask(publisher="/x/rcv_msk 12ab", sequence=9, client_id="a")
    message.header.frame_id = "ras"
    assert publisher_of(serialize_message(message)) == b"/x/rcv_msk 12ab"
    assert publisher_of(serialize_message(message)[:30]) == b""
