# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""`samm stream`: plays a recording as a live stream of images, and poses where it has them."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

HELP = "play a video, pictures, a DICOM cine, tracked ultrasound or a volume as a live stream of images"

# Less than this is caught up.
_LATE_S = 0.1
_LOOK_S = 0.05


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what",
        type=Path,
        help="a video, a picture or a folder of them, a DICOM cine, a sequence of PLUS (.mha), or a volume to sweep through",
    )
    parser.add_argument("--rate", type=float, metavar="HZ", help="images a second (default: as recorded)")
    parser.add_argument("--loop", action="store_true", help="begin again after the last image, until Ctrl-C")
    parser.add_argument(
        "--start", type=int, default=0, metavar="N", help="number of the first image (default: 0)"
    )
    parser.add_argument("--count", type=int, metavar="N", help="end after so many images")
    parser.add_argument("--wait", action="store_true", help="begin when somebody listens to the images")
    parser.add_argument("--namespace", default="", help="namespace of the node graph (default: none)")
    parser.add_argument("--topic", default="image", help="topic of the images (default: image)")
    parser.add_argument(
        "--compressed", choices=("jpeg", "png"), help="send compressed images, on TOPIC/compressed"
    )
    parser.add_argument("--pose-topic", default="pose", help="topic of the poses (default: pose)")
    parser.add_argument("--frame-id", default="image", help="frame that images name (default: image)")
    parser.add_argument(
        "--stamps",
        choices=("now", "recorded"),
        default="now",
        help="stamp images with the time at which they are sent, or at the recording's distances from its begin (default: now)",
    )
    tracked = parser.add_argument_group("tracked ultrasound")
    tracked.add_argument(
        "--transform",
        default="",
        help="pose to send (default: of the image or probe, in the reference or tracker)",
    )
    tracked.add_argument(
        "--image-to-probe",
        default="",
        metavar="NUMBERS",
        help="16 numbers, row by row: the calibration, mm a pixel",
    )
    sweep = parser.add_argument_group("sweep through a volume")
    sweep.add_argument(
        "--sweep",
        metavar="AXIS",
        choices=("superior", "anterior", "right"),
        help="take WHAT as a volume or DICOM series; move along superior, anterior or right (default: superior)",
    )
    sweep.add_argument("--tilt", type=float, metavar="DEG", help="turn the plane about its rows (default: 0)")
    sweep.add_argument(
        "--step", type=float, metavar="MM", help="from image to image (default: the smallest spacing)"
    )
    sweep.add_argument("--pixels", type=int, metavar="N", help="longer side of the images (default: 320)")
    sweep.add_argument(
        "--pixel-mm", type=float, metavar="MM", help="side of a pixel (default: the volume fits in)"
    )


def main(args: argparse.Namespace) -> int:
    """0, also when SIGINT or SIGTERM ends it. Raises FrameError, VolumeError or LaunchError."""
    import itertools
    import os

    from samm_core.stream.play import open_player, played

    from ..supervision.processes import environment

    _check(args)
    player = open_player(args.what, args.transform, _calibration(args.image_to_probe), _path(args))
    count = f"{player.frame_count} images" if player.frame_count else "images"
    print(f"{player.name}: {player.kind}, {count}, {player.rate:.4g} a second", *player.remarks, sep="\n")
    frames = itertools.islice(played(player, args.rate, args.loop, args.start), args.count)
    # The first takes longest, and is made before the clock runs.
    frames = itertools.chain([next(frames)], frames)
    total = args.count
    if player.frame_count and not args.loop:
        total = min(total or player.frame_count, player.frame_count - args.start)

    os.environ.update(environment())

    import rclpy
    from rich.progress import MofNCompleteColumn, Progress, TextColumn

    from ..tools.player import StreamPublisher, split_pose
    from . import noted_signals

    with noted_signals() as ended:
        rclpy.init(args=[], signal_handler_options=rclpy.SignalHandlerOptions.NO)
        sent, poses, began = 0, 0, 0.0
        try:
            node = StreamPublisher(
                "player",
                args.topic,
                args.pose_topic,
                args.compressed or "",
                args.frame_id,
                namespace=args.namespace or None,
            )
            while args.wait and not node.listeners and not ended.wait(_LOOK_S):
                pass
            columns = TextColumn("images"), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")
            with Progress(*columns) as bars:
                bar = bars.add_task("", total=total, rate="")
                began, first_ns, pace = time.monotonic(), node.now_ns(), _Pace()
                for frame in frames:
                    if ended.wait(pace.wait_s(frame.stamp_s)):
                        break
                    stamp_ns = (
                        node.now_ns() if args.stamps == "now" else first_ns + round(frame.stamp_s * 1e9)
                    )
                    if frame.pose is not None and frame.status_ok:
                        rigid, size_mm = split_pose(frame.pose)
                        if not poses:
                            bars.print(
                                f"Poses are in {player.frame_id}; a pixel is {size_mm[0]:.4g} x {size_mm[1]:.4g} mm"
                            )
                        # First, as the image waits for its pose, and not the pose for its image.
                        node.send_pose(rigid, stamp_ns, player.frame_id)
                        poses += 1
                    node.send_image(frame.pixels, stamp_ns)
                    sent += 1
                    since = time.monotonic() - began
                    rate = f"{(sent - 1) / since:.1f} a second" if sent > 1 and since else ""
                    bars.update(bar, completed=sent, rate=rate)
            took = time.monotonic() - began
            node.finish()
        finally:
            rclpy.try_shutdown()
    mean = f", {(sent - 1) / took:.1f} a second" if sent > 1 and took else ""
    told = f", {poses} with a pose on {node.pose_topic}" if player.frame_id else ""
    print(f"{sent} images of {player.name} were sent on {node.topic}{told}, in {took:.1f} s{mean}")
    return 0


class _Pace:
    """When each image is due, by its stamp; after a delay, what is left is played later, and not faster."""

    def __init__(self) -> None:
        self._begins = time.monotonic()

    def wait_s(self, stamp_s: float) -> float:
        late_s = time.monotonic() - self._begins - stamp_s
        self._begins += max(0.0, late_s - _LATE_S)
        return max(0.0, -late_s)


def _check(args: argparse.Namespace) -> None:
    from samm_core.errors import LaunchError

    if args.count is not None and args.count < 1:
        raise LaunchError(f"--count {args.count} is not possible; give 1 or more.")
    for option, topic in (("--topic", args.topic), ("--pose-topic", args.pose_topic)):
        check_topic(option, topic)


def check_topic(option: str, topic: str) -> None:
    """Raises LaunchError for what ROS does not take as the name of a topic."""
    import re

    from samm_core.errors import LaunchError

    if not re.fullmatch(r"/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*", topic) or "__" in topic:
        raise LaunchError(
            f'{option} "{topic}" is no name of a topic; give names of letters, digits and underscores, no digit first, with '
            '"/" between them.'
        )


def _calibration(text: str) -> object:
    """(4, 4) of 16 numbers in a text; None: there is no text."""
    import numpy as np

    from samm_core.errors import FrameError

    if not text.strip():
        return None
    try:
        matrix = np.array([float(word) for word in text.replace(",", " ").split()]).reshape(4, 4)
        if not np.isfinite(matrix).all():
            raise ValueError
    except ValueError:
        raise FrameError(
            f'--image-to-probe "{text[:60]}" is no matrix; give 16 numbers, row by row.'
        ) from None
    return matrix


def _path(args: argparse.Namespace) -> object:
    """The SweepPath that the arguments ask for; None: none of them is there."""
    from samm_core.stream.play import SweepPath

    given = {
        "axis": args.sweep,
        "tilt_deg": args.tilt,
        "step_mm": args.step,
        "pixels": args.pixels,
        "spacing_mm": args.pixel_mm,
    }
    given = {name: value for name, value in given.items() if value is not None}
    return SweepPath(**given) if given else None
