# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""REL2 and REL3: any process may die; nothing applied is lost, what is stale looks stale, and the next prompt is answered."""

from __future__ import annotations

import os
import signal
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from peer import Peer
from samm_msgs.msg import EmbeddingRequest, NamedTensor, Prompt, SegmentationStatus, SliceEmbedding, SliceMask

from samm_core.cycle.request import ClientPrompt
from samm_core.errors import PromptError
from samm_core.geometry import Plane
from samm_core.mask_codec import decode_mask
from samm_core.prompts import PixelPrompt, pixel_box
from samm_ros import conversions, topics
from samm_ros.client import GraphClient
from samm_ros.supervision.processes import environment
from samm_ros.supervision.supervisor import Supervisor, launch

pytestmark = [pytest.mark.xdist_group("graph"), pytest.mark.timeout(400)]

FIRST = pixel_box(Plane.AXIAL, 35, 36, 110, 82, 162)
SECOND = pixel_box(Plane.SAGITTAL, 98, 84, 2, 120, 68)
# Python, torch, the model and the volume, on a busy machine.
RESTART_S = 150.0


@contextmanager
def launched(namespace: str, folder: Path, **arguments: str) -> Iterator[Supervisor]:
    os.environ.update(environment())
    arguments = {"namespace": namespace, "sweep": "false", "bridge": "false", **arguments}
    with launch(arguments, folder / "log") as running:
        yield running


def wait_until_applied(client: GraphClient, masks: int) -> None:
    """An answer reaches its client and APL_MSK at once: the one may save before the other has applied it."""
    client.wait_for(lambda: client.segmentation.applied >= masks, f"{masks} applied masks", RESTART_S)


def saved_labels(client: GraphClient, path: Path) -> np.ndarray:
    client.save(path)
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def test_a_server_killed_in_mid_prompt_answers_it_when_it_is_back_and_nothing_applied_is_lost(
    namespace: str, tmp_path: Path, mni_path: Path, mni
) -> None:
    with (
        launched(namespace, tmp_path) as running,
        GraphClient(namespace, "surgeon", running.check) as client,
        Peer(namespace) as peer,
    ):
        peer.listen(SegmentationStatus, topics.SEGMENTATION_STATUS, topics.LATCHED)
        peer.listen(SliceMask, topics.RECEIVED_MASKS, topics.NEWEST)
        client.load(mni_path)
        first = client.prompt(FIRST, segment="kept")
        wait_until_applied(client, 1)
        before = saved_labels(client, tmp_path / "before.nii.gz")
        assert before.any()

        def waits(status: SegmentationStatus) -> bool:
            return any(c.requested > max(c.settled, first.cycle) for c in status.clients)

        publisher = peer.publisher(Prompt, topics.PROMPTS, topics.NEWEST)

        # The slice is new to the server: it dies while it encodes it.
        peer.publish_until(
            publisher,
            conversions.prompt_to_msg(ClientPrompt.of(SECOND, "surgeon", "late")),
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
        after = saved_labels(client, tmp_path / "after.nii.gz")
        mask = decode_mask(answer.data.tobytes(), (answer.height, answer.width), answer.encoding)
        assert (after[before > 0] == before[before > 0]).all(), "what was applied before the kill is gone"
        assert (mni.geometry.take_slice(after, Plane.SAGITTAL, 98)[mask] > 0).all()


def test_a_killed_client_comes_back_with_its_segmentation(
    namespace: str, tmp_path: Path, mni_path: Path
) -> None:
    journal = str(tmp_path / "journal")
    with (
        launched(namespace, tmp_path, journal=journal) as running,
        GraphClient(namespace, "surgeon", running.check) as client,
    ):
        client.load(mni_path)
        client.prompt(FIRST, segment="kept")
        wait_until_applied(client, 1)
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
        client.prompt(SECOND, segment="next")
        wait_until_applied(client, 1)
        assert len(np.unique(saved_labels(client, tmp_path / "next.nii.gz"))) == 3


def test_a_process_a_node_gives_the_masks_of_the_model_and_the_decoder_fetches_an_embedding_once(
    namespace: str, tmp_path: Path, mni_path: Path, mni, lite_medsam
) -> None:
    with (
        launched(namespace, tmp_path, composed="false") as running,
        GraphClient(namespace, "surgeon", running.check) as client,
    ):
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

        (embedding,) = lite_medsam.encode([mni.slice_image(Plane.AXIAL, 35)])
        expected = lite_medsam.decode(embedding, PixelPrompt(box_xyxy=np.array([36, 110, 82, 162]))).mask
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
        assert client.prompt(SECOND, segment="late", timeout_s=RESTART_S).data


def test_an_embedding_that_was_damaged_on_the_way_is_refused_and_fetched_again(
    namespace: str, tmp_path: Path, mni_path: Path
) -> None:
    with (
        launched(namespace, tmp_path, composed="false") as running,
        GraphClient(namespace, "surgeon", running.check) as client,
    ):
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
                    client.prompt(SECOND, timeout_s=RESTART_S)
        finally:
            running.kill("embedding", signal.SIGCONT)
        assert client.prompt(SECOND, timeout_s=RESTART_S).data
