# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The OpenVINO backend, for CPUs: encoder and decoder compiled from an export, without torch."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openvino
import psutil

from ...errors import BackendError
from ..base import (
    FEATURES,
    Embedding,
    MaskResult,
    PixelPrompt,
    SegmentationModel,
    index_of_choice,
    sam_features,
)
from ..parity import Reference, check_parity
from ..processor import Processor, check_image
from . import compiled_store
from .export_store import REFERENCE_FILE, encoder_digest, exports_of_same_encoder

# The name of each precision, in OpenVINO and among the capabilities that it reports.
_HINTS = {"float32": "f32", "bfloat16": "bf16"}


# Steps of Unix's niceness.
_BEHIND = 5


class OpenVinoModel(SegmentationModel):
    """A model from an export. Its features are float16, a view of channels-last memory; its decoder computes in float32.

    Two encoders share the export. One uses all cores, for a slice that somebody waits for. The other has one thread for
    each slice that is embedded ahead, and the kernel runs those threads when no other needs the processor.

    export: the folder of the export.
    """

    device = "cpu"
    # The exported decoder has no input for a mask.
    takes_mask = False

    def __init__(self, name: str, processor: Processor, export: Path, precision: str) -> None:
        self.name = name
        self.processor = processor
        self.backend = f"openvino {precision}"
        self.sweepers = self._cores = core_count()
        self.fingerprint, *former = (
            hashlib.blake2b(f"{each} {processor.version} {self.backend}".encode(), digest_size=16).hexdigest()
            # Earlier releases named the whole export, so that a change of the decoder changed the fingerprint.
            for each in (encoder_digest(export), *exports_of_same_encoder(export))
        )
        self.former_fingerprints = tuple(former)
        self.export = export
        self._precision = precision
        self._core = openvino.Core()
        self._mark = compiled_store.mark_of(export, _cpu())
        # Whether each network that has been used was compiled by an earlier start, and imported now.
        self.all_imported = True
        self._ahead: _Pool | None = None
        self._background: OpenVinoModel | None = None
        self._later = threading.Lock()
        self._compile_all()

    def _compile_all(self) -> None:
        """Begin to compile; whoever uses a network waits for it."""
        separate = "points" if (self.export / "points.xml").is_file() else "decoder"
        compiling = ThreadPoolExecutor(self._cores, "compiling")
        # A box is two points, and so is one point with its padding. Two, as a fixed shape, decode a fifth faster.
        self._box = compiling.submit(self._compile_decoder, "decoder", 2)
        self._encoder = compiling.submit(self._compile_encoder, self._cores, 1)
        if self.processor.takes_points:
            has_own = separate != "decoder"
            self._one_point = compiling.submit(self._compile_decoder, separate, 2) if has_own else self._box
            self._points = compiling.submit(self._compile_decoder, separate, -1)
        compiling.shutdown(wait=False)

    def encode(self, images: Sequence[np.ndarray], ahead: bool = False) -> list[Embedding]:
        if not images:
            return []
        encoder = self._ahead_encoder() if ahead else self._encoder.result()
        return [self._encode(image, encoder) for image in images]

    def _decode_all(self, embedding: Embedding, prompts: Sequence[PixelPrompt]) -> list[MaskResult]:
        return [self._decode(embedding, prompt) for prompt in prompts]

    def _decode(self, embedding: Embedding, prompt: PixelPrompt) -> MaskResult:
        coords, labels = self.processor.point_inputs(prompt, embedding.original_size)
        # No copy of what this model encoded: its features are a view of this order.
        features = np.ascontiguousarray(embedding.features.transpose(1, 2, 0))
        decoder = self._box
        if prompt.has_points:
            decoder = self._one_point if len(labels) == 2 else self._points
        logits, scores = decoder.result().run([features[None], coords[None], labels[None]])
        proposed = slice(1, None) if self.processor.multimask_output(prompt) else slice(0, 1)
        logits, scores = logits[0, proposed], scores[0, proposed]
        best = index_of_choice(scores, prompt.choice)
        mask = self.processor.mask(logits[best], embedding.original_size)
        return MaskResult(mask, float(scores[best]), logits, scores, best)

    def restore(self, tensors: Mapping[str, np.ndarray], original_size: tuple[int, int]) -> Embedding:
        features = sam_features(tensors)
        return self._embedding(np.ascontiguousarray(features.transpose(1, 2, 0), np.float16), original_size)

    def warm_up(self) -> None:
        """Nothing is to be done ahead: the first slice is a tenth slower than the next."""

    def _encode(self, image: np.ndarray, encoder: _Pool) -> Embedding:
        size = check_image(image)
        (features,) = encoder.run([self.processor.preprocess(image)[None]])
        return self._embedding(features[0], size)

    def _embedding(self, channels_last: np.ndarray, original_size: tuple[int, int]) -> Embedding:
        """The embedding with features (h, w, C) float16, without a copy."""
        features = channels_last.transpose(2, 0, 1)
        return Embedding({FEATURES: features}, original_size, self.processor.input_size(original_size))

    def _ahead_encoder(self) -> _Pool:
        with self._later:
            if self._ahead is None:
                # OpenVINO's threads inherit the policy of the thread that compiles. Python's own threads keep theirs: they
                # hold its lock now and then.
                with ThreadPoolExecutor(1, initializer=_run_when_idle) as compiling:
                    self._ahead = compiling.submit(self._compile_encoder, 1, self._cores).result()
            return self._ahead

    def in_background(self) -> OpenVinoModel:
        with self._later:
            if self._background is None:
                with ThreadPoolExecutor(1, initializer=_run_behind_others) as compiling:
                    self._background = compiling.submit(self._again).result()
        return self._background

    def _again(self) -> OpenVinoModel:
        """This model, compiled anew: its threads have the priority of the one that calls."""
        again = copy.copy(self)
        # The other core is left to what waits for nothing: with both, 1 of 100 live images waited 20 ms longer.
        again._cores = 1
        again._ahead, again._background, again._later = None, again, threading.Lock()
        again._compile_all()
        return again

    def _compile_encoder(self, threads: int, streams: int) -> _Pool:
        compiled = self._compile(
            "encoder", lambda: self.export / "encoder.xml", self._precision, threads, streams
        )
        return _Pool(compiled, streams)

    def _compile_decoder(self, name: str, points: int) -> _Pool:
        """points: how many each prompt has, a box's two corners and the padding included; -1: any number."""

        def read() -> openvino.Model:
            decoder = self._core.read_model(self.export / f"{name}.xml")
            features = decoder.inputs[0].partial_shape
            batch = 1 if points > 0 else -1
            decoder.reshape({0: [1, *list(features)[1:]], 1: [batch, points, 2], 2: [batch, points]})
            return decoder

        kept_as = name if points < 0 else f"{name}-{points}"
        return _Pool(self._compile(kept_as, read, "float32", self._cores, 1), 1)

    def _compile(
        self,
        kept_as: str,
        network: Callable[[], Path | openvino.Model],
        precision: str,
        threads: int,
        streams: int,
    ) -> openvino.CompiledModel:
        """Compiled before, or now. How many threads and streams it has is said each time: the file is the same."""
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "INFERENCE_NUM_THREADS": threads * streams,
            "NUM_STREAMS": streams,
            # Pinned to cores, encoder and decoder would wait for the same cores while others idle.
            "ENABLE_CPU_PINNING": False,
        }
        file = self.export / f"compiled-{kept_as}-{precision}-{self._mark}"
        if (kept := compiled_store.load_compiled(file)) is not None:
            with contextlib.suppress(RuntimeError):  # told by compiling it
                return self._core.import_model(openvino.Tensor(kept), "CPU", settings)
        self.all_imported = False
        compiled = self._core.compile_model(network(), "CPU", settings)
        compiled_store.save_compiled(file, compiled.export_model().getvalue())
        return compiled


class _Pool:
    """A compiled network and its inference requests, each of which one thread uses at a time."""

    def __init__(self, compiled: openvino.CompiledModel, count: int) -> None:
        self._idle = [compiled.create_infer_request() for _ in range(count)]
        self._wake = threading.Condition()

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """The network's outputs, as arrays that no later call overwrites."""
        with self._wake:
            self._wake.wait_for(lambda: self._idle)
            request = self._idle.pop()
        try:
            outputs = request.infer(inputs, share_inputs=True)
            return [outputs[i] for i in range(len(outputs))]
        finally:
            with self._wake:
                self._idle.append(request)
                self._wake.notify()


def fast_precisions() -> tuple[str, ...]:
    """The precisions to try on this CPU, the fastest first."""
    halves = (
        ("bfloat16",) if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else ()
    )
    return (*halves, "float32")


def activate(name: str, processor: Processor, export: Path, precision: str) -> OpenVinoModel:
    """The model of an export. Raises BackendError where it does not agree with the reference in this precision.

    A refusal is written down beside the export, so that a second start does not compile what the first refused.
    Agreement is written down until the computer is started again: a server that died is back before the check would be
    over. What was compiled just now is checked once more, when it is imported.
    """
    mark = compiled_store.mark_of(export, _cpu())
    if why := compiled_store.refusal(export, precision, mark):
        raise BackendError(why)
    model = OpenVinoModel(name, processor, export, precision)
    if compiled_store.agrees_since_boot(export, precision, mark):
        return model
    try:
        check_parity(model, Reference.load(export / REFERENCE_FILE), precision)
    except BackendError as error:
        compiled_store.note_refusal(export, precision, mark, str(error))
        raise
    if model.all_imported:
        compiled_store.note_agreement(export, precision, mark)
    return model


def _cpu() -> str:
    return openvino.Core().get_property("CPU", "FULL_DEVICE_NAME")


def _run_when_idle() -> None:
    """Run this thread, and those that it starts, only when no other thread needs the processor (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _run_behind_others() -> None:
    """Let this thread, and those that it starts, have a third of what another gets that needs the same processor (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _BEHIND)


def core_count() -> int:
    """Physical cores that this process may use, or OMP_NUM_THREADS where that is fewer."""
    cores = min(psutil.cpu_count(logical=False) or 1, len(os.sched_getaffinity(0)))
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores, int(limit))) if limit.isdigit() and int(limit) else cores
