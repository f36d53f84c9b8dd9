# SPDX-License-Identifier: Apache-2.0
"""The OpenVINO backend, for CPUs: encoder and decoder compiled from an export, without torch."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openvino
import psutil

from ..errors import BackendError
from .base import Embedding, MaskResult, PixelPrompt, SegmentationModel
from .parity import Golden, check_parity
from .recipe import Recipe, check_image

# The name of each precision, in OpenVINO and among the capabilities that it reports.
_HINTS = {"float32": "f32", "bfloat16": "bf16"}


class OpenVinoModel(SegmentationModel):
    """A model from an export. Features are kept in float16, pixel by pixel; the decoder computes in float32.

    Two encoders share the export: one on all cores for a slice that somebody waits for, and one with a thread for each
    slice that is embedded ahead, which the kernel runs when nothing else is to be run.
    """

    device = "cpu"

    def __init__(self, name: str, recipe: Recipe, export: Path, precision: str) -> None:
        self.name = name
        self.recipe = recipe
        self.backend = f"openvino {precision}"
        self.sweepers = self._cores = core_count()
        self.fingerprint = hashlib.blake2b(
            f"{export.name} {recipe.version} {self.backend}".encode(), digest_size=16
        ).hexdigest()
        self.export = export
        self._precision = precision
        self._core = openvino.Core()
        self._encoder = self._compile_encoder(self._cores, 1)
        self._ahead: _Pool | None = None
        self._ahead_lock = threading.Lock()
        # A box, or one point and its padding, is two tokens; of a fixed shape they decode a fifth faster.
        self._two_tokens = self._compile_decoder(2)
        self._any_tokens = self._compile_decoder(-1) if recipe.takes_points else self._two_tokens

    def encode(self, images: Sequence[np.ndarray], ahead: bool = False) -> list[Embedding]:
        return [self._encode(image, self._ahead_encoder() if ahead else self._encoder) for image in images]

    def decode(self, embedding: Embedding, prompt: PixelPrompt) -> MaskResult:
        self.check_prompt(prompt)
        xy, labels = self.recipe.tokens(prompt, embedding.original_size)
        # No copy of what this model encoded: its features are a view of this order.
        features = np.ascontiguousarray(embedding.features.transpose(1, 2, 0))
        decoder = self._two_tokens if len(labels) == 2 else self._any_tokens
        logits, scores = decoder.run([features[None], xy[None], labels[None]])
        first = 0
        if self.recipe.wants_several(prompt):
            first = 1 + int(scores[0, 1:].argmax())
        mask = self.recipe.mask(logits[0, first], embedding.original_size)
        return MaskResult(mask, float(scores[0, first]))

    def adopt(self, features: np.ndarray, original_size: tuple[int, int]) -> Embedding:
        pixels = np.ascontiguousarray(features.transpose(1, 2, 0), np.float16)
        return Embedding(pixels.transpose(2, 0, 1), original_size, self.recipe.input_size(original_size))

    def warm_up(self) -> None:
        """Nothing is left to do: the parity gate has encoded and decoded."""

    def _encode(self, image: np.ndarray, encoder: _Pool) -> Embedding:
        size = check_image(image)
        (features,) = encoder.run([self.recipe.preprocess(image)[None]])
        return Embedding(features[0].transpose(2, 0, 1), size, self.recipe.input_size(size))

    def _ahead_encoder(self) -> _Pool:
        with self._ahead_lock:
            if self._ahead is None:
                # OpenVINO's threads inherit the policy of the one that compiles; Python's, which hold its lock now and
                # then, stay as they are.
                with ThreadPoolExecutor(1, initializer=_run_when_idle) as compiling:
                    self._ahead = compiling.submit(self._compile_encoder, 1, self._cores).result()
            return self._ahead

    def _compile_encoder(self, threads: int, streams: int) -> _Pool:
        return _Pool(self._compile("encoder", self._precision, threads, streams), streams)

    def _compile_decoder(self, tokens: int) -> _Pool:
        graph = self._core.read_model(self.export / "decoder.xml")
        features, xy, labels = (each.partial_shape for each in graph.inputs)
        batch = 1 if tokens > 0 else -1
        graph.reshape({0: [1, *list(features)[1:]], 1: [batch, tokens, 2], 2: [batch, tokens]})
        return _Pool(self._compile(graph, "float32", self._cores, 1), 1)

    def _compile(
        self, graph: str | openvino.Model, precision: str, threads: int, streams: int
    ) -> openvino.CompiledModel:
        source = self.export / f"{graph}.xml" if isinstance(graph, str) else graph
        return self._core.compile_model(
            source,
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": _HINTS[precision],
                "INFERENCE_NUM_THREADS": threads * streams,
                "NUM_STREAMS": streams,
                # Bound to cores, encoder and decoder would wait for the same ones while others idle.
                "ENABLE_CPU_PINNING": False,
            },
        )


class _Pool:
    """A compiled graph and its requests, each used by one thread at a time."""

    def __init__(self, compiled: openvino.CompiledModel, count: int) -> None:
        self._idle = [compiled.create_infer_request() for _ in range(count)]
        self._wake = threading.Condition()

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """The graph's outputs, as arrays of their own."""
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


def activate(name: str, recipe: Recipe, export: Path, precision: str) -> OpenVinoModel:
    """The model of an export. Raises BackendError where it does not agree with the reference in this precision.

    A refusal is kept beside the export, for the same CPU and settings: a second start does not compile what the first
    refused. An agreement is checked anew every time.
    """
    cpu = openvino.Core().get_property("CPU", "FULL_DEVICE_NAME")
    digest = hashlib.blake2b(cpu.encode() + Path(__file__).read_bytes(), digest_size=8).hexdigest()
    known = export / f"refused-{precision}-{digest}.txt"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if why := known.read_text():
            raise BackendError(why)
    model = OpenVinoModel(name, recipe, export, precision)
    try:
        check_parity(model, Golden.load(export / "golden.safetensors"), precision)
    except BackendError as error:
        part = known.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(OSError):
            part.write_text(str(error))
            os.replace(part, known)
        raise
    return model


def _run_when_idle() -> None:
    """Give this thread, and those that it starts, what processor time nobody else wants (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def core_count() -> int:
    """Physical cores that this process may use, or OMP_NUM_THREADS where that is less."""
    cores = min(psutil.cpu_count(logical=False) or 1, len(os.sched_getaffinity(0)))
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores, int(limit))) if limit.isdigit() and int(limit) else cores
