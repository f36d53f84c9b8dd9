# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""REL2 and REL3: any process may die; nothing applied is lost, what is stale looks stale, and the next prompt is answered."""

from __future__ import annotations

import signal
import uuid
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import SimpleITK as sitk
from graph_processes import launched
from peer import Peer
from samm_msgs.msg import EmbeddingRequest, NamedTensor, Prompt, SegmentationStatus, SliceEmbedding, SliceMask
from test_pictures_graph import BOX, CENTRE_XY, DISC, colours, voxels

from samm_core.cycle.request import Answer, ClientPrompt
from samm_core.errors import PromptError
from samm_core.geometry import Plane
from samm_core.mask_codec import decode_mask
from samm_core.models.parity import dice_of
from samm_core.prompts import PixelPrompt, pixel_box, pixel_points
from samm_core.prompts import Prompt as Marks
from samm_ros import conversions, topics
from samm_ros.client import GraphClient
from samm_ros.supervision import cleanup
from samm_ros.supervision.supervisor import Supervisor

pytestmark = [pytest.mark.xdist_group("graph"), pytest.mark.timeout(400)]

FIRST = pixel_box(Plane.AXIAL, 35, 36, 110, 82, 162)
# A test that needs a slice that its graph has not embedded takes the next one, when it runs again too.
NEW_SLICES = iter(range(95, 102))
# Python, torch, the model and the volume, on a busy machine.
RESTART_S = 150.0


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Supervisor]]:
    """A graph in the processes of `./samm up`, with a journal."""
    folder = tmp_path_factory.mktemp("composed")
    with launched(folder, journal=str(folder / "journal")) as graph:
        yield graph


@pytest.fixture(scope="module")
def scattered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Supervisor]]:
    """A graph with a process for each node."""
    with launched(tmp_path_factory.mktemp("scattered"), composed="false") as graph:
        yield graph


def on_a_new_slice() -> Marks:
    return pixel_box(Plane.SAGITTAL, next(NEW_SLICES), 84, 2, 120, 68)


def applied(client: GraphClient, prompt: Marks, segment: str) -> Answer:
    """The answer, which reaches its client and APL_MSK at once, when the other has applied it too."""
    answer = client.prompt(prompt, segment=segment, timeout_s=RESTART_S)
    client.wait_for(
        lambda: any(
            each.client_id == client.client_id and each.settled >= answer.cycle
            for each in client.segmentation.clients
        ),
        "the mask to be applied",
        RESTART_S,
    )
    return answer


def saved_labels(client: GraphClient, path: Path) -> np.ndarray:
    client.save(path)
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def test_a_server_killed_in_mid_prompt_answers_it_when_it_is_back_and_nothing_applied_is_lost(
    composed: tuple[str, Supervisor], tmp_path: Path, mni_path: Path, mni
) -> None:
    namespace, running = composed
    second = on_a_new_slice()
    with GraphClient(namespace, "surgeon", running.check) as client, Peer(namespace) as peer:
        peer.listen(SegmentationStatus, topics.SEGMENTATION_STATUS, topics.LATCHED)
        peer.listen(SliceMask, topics.RECEIVED_MASKS, topics.NEWEST)
        client.load(mni_path)
        first = applied(client, FIRST, "kept")
        before = saved_labels(client, tmp_path / "before.nii.gz")
        assert before.any()
        mark = psutil.Process(running.processes["samm_server"]).environ()[cleanup.MARK]
        embeddings = list(cleanup.folder_of(mark).glob("*/*.safetensors"))
        assert embeddings, "the server kept none of the slice that was prompted"

        def waits(status: SegmentationStatus) -> bool:
            return any(c.requested > max(c.settled, first.cycle) for c in status.clients)

        publisher = peer.publisher(Prompt, topics.PROMPTS, topics.NEWEST)

        # The slice is new to the server: it dies while it encodes it.
        peer.publish_until(
            publisher,
            conversions.prompt_to_msg(ClientPrompt.of(second, "surgeon", "late")),
            topics.SEGMENTATION_STATUS,
            waits,
        )
        running.kill("samm_server", signal.SIGKILL)

        peer.wait_for(topics.SEGMENTATION_STATUS, lambda s: s.stale and waits(s), timeout_s=2.0)
        answer = peer.wait_for(
            topics.RECEIVED_MASKS, lambda m: m.segment == "late" and not m.error, RESTART_S
        )
        peer.wait_for(
            topics.SEGMENTATION_STATUS,
            lambda s: not s.stale and any(c.settled >= answer.cycle for c in s.clients),
        )
        assert all(file.exists() for file in embeddings)
        after = saved_labels(client, tmp_path / "after.nii.gz")
        mask = decode_mask(answer.data.tobytes(), (answer.height, answer.width), answer.encoding)
        assert (after[before > 0] == before[before > 0]).all(), "what was applied before the kill is gone"
        assert (mni.geometry.take_slice(after, Plane.SAGITTAL, second.slice_index)[mask] > 0).all()


def test_a_killed_client_comes_back_with_its_segmentation(
    composed: tuple[str, Supervisor], tmp_path: Path, mni_path: Path
) -> None:
    namespace, running = composed
    with GraphClient(namespace, "patient", running.check) as client:
        client.load(mni_path)
        applied(client, FIRST, "of the first life")
        before = saved_labels(client, tmp_path / "before.nii.gz")
        first_life = running.processes["samm_client"]

        running.kill("samm_client", signal.SIGKILL)

        client.wait_for(
            lambda: running.processes.get("samm_client", first_life) != first_life, "a new life", RESTART_S
        )
        client.wait_for(
            lambda: client.segmentation.applied == 0 and client.segmentation.volumes,
            "the new life to show the volume",
            RESTART_S,
        )
        np.testing.assert_array_equal(saved_labels(client, tmp_path / "after.nii.gz"), before)
        applied(client, on_a_new_slice(), "of the second life")
        after = saved_labels(client, tmp_path / "next.nii.gz")
        assert len(np.unique(after)) == len(np.unique(before)) + 1


def test_a_picture_that_is_gone_with_the_server_comes_back(composed: tuple[str, Supervisor]) -> None:
    namespace, running = composed
    seed = uuid.uuid4().int % 2**32
    with GraphClient(namespace, "endoscope", running.check) as client:
        picture = colours(seed)
        # Which waits for the server. That it goes with it, and nobody has kept it, hinders nobody.
        client.load_picture(colours(seed + 1), timeout_s=RESTART_S)
        first = client.prompt_picture(picture, BOX, "kept", timeout_s=RESTART_S)
        client.wait_for(lambda: voxels(client, "kept") > 0, "the mask to be applied", 30.0)

        running.kill("samm_server", signal.SIGKILL)

        # Its prompt names it and brings nothing: the graph has kept it.
        second = client.prompt(pixel_points(Plane.AXIAL, 0, [CENTRE_XY]), "late", timeout_s=RESTART_S)
        assert second.image == first.image and dice_of(second.mask, DISC) > 0.8
        assert voxels(client, "kept") == first.mask.sum()


def test_a_process_a_node_gives_the_masks_of_the_model_and_the_decoder_fetches_an_embedding_once(
    scattered: tuple[str, Supervisor], mni_path: Path, lite_medsam, embedded
) -> None:
    namespace, running = scattered
    with GraphClient(namespace, "surgeon", running.check) as client:
        assert set(running.processes) == {
            "snd_inf",
            "rcv_inf",
            "embedding",
            "cpl_inf",
            "rcv_msk",
            "apl_msk",
            "world",
        }
        client.load(mni_path)
        answer = client.prompt(FIRST, segment="remote", timeout_s=RESTART_S)

        prompt = PixelPrompt(box_xyxy=[36, 110, 82, 162])
        expected = lite_medsam.decode(embedded(Plane.AXIAL, 35), prompt).mask
        mask = decode_mask(answer.data, answer.shape, answer.encoding)
        assert (mask ^ expected).sum() <= 0.002 * expected.sum()

        running.kill("embedding", signal.SIGSTOP)
        try:
            moved = pixel_box(Plane.AXIAL, 35, 38, 110, 82, 162)
            assert client.prompt(moved, segment="remote").data, "the decoder asked for the embedding again"
        finally:
            running.kill("embedding", signal.SIGCONT)

        running.kill("cpl_inf", signal.SIGKILL)
        assert client.prompt(FIRST, segment="remote", timeout_s=RESTART_S).data

        running.kill("embedding", signal.SIGKILL)
        assert client.prompt(on_a_new_slice(), segment="late", timeout_s=RESTART_S).data


def test_an_embedding_that_was_damaged_on_the_way_is_refused_and_fetched_again(
    scattered: tuple[str, Supervisor], mni_path: Path
) -> None:
    namespace, running = scattered
    second = on_a_new_slice()
    with GraphClient(namespace, "surgeon", running.check) as client:
        client.load(mni_path)
        assert client.prompt(FIRST, timeout_s=RESTART_S).data
        running.kill("embedding", signal.SIGSTOP)
        try:
            with Peer(namespace) as impostor:
                embeddings = impostor.publisher(SliceEmbedding, topics.EMBEDDINGS, topics.EMBEDDING)

                def answer(wanted: EmbeddingRequest) -> None:
                    tensor = NamedTensor(name="features", dtype="float16")
                    tensor.shape, tensor.data = array("I", [2, 2, 2]), array("B", bytes(16))
                    message = SliceEmbedding(image=wanted.image, model=wanted.model)
                    message.tensors, message.original_size, message.checksum = [tensor], [10, 10], 1
                    embeddings.publish(message)

                impostor.node.create_subscription(
                    EmbeddingRequest, topics.EMBEDDING_REQUESTS, answer, topics.EMBEDDING
                )
                with pytest.raises(PromptError, match="damaged on the way"):
                    client.prompt(second, timeout_s=RESTART_S)
        finally:
            running.kill("embedding", signal.SIGCONT)
        assert client.prompt(second, timeout_s=RESTART_S).data
