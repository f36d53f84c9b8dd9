# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""`samm igtl`: sends what an OpenIGTLink server sends on, as images and poses."""

from __future__ import annotations

import argparse

HELP = "send the images and transforms of an OpenIGTLink server, such as PLUS or 3D Slicer, on as a stream"

_LOOK_S = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("server", metavar="HOST:PORT", help="the server; PLUS listens on port 18944")
    parser.add_argument("--namespace", default="", help="namespace of the node graph (default: none)")
    parser.add_argument(
        "--image-device", default="", metavar="NAME", help="whose images (default: the first heard)"
    )
    parser.add_argument(
        "--transform-device",
        default="",
        metavar="NAME",
        help="which transform, such as ProbeToReference (default: the first heard)",
    )
    parser.add_argument("--topic", default="image", help="topic of the images (default: image)")
    parser.add_argument(
        "--compressed", choices=("jpeg", "png"), help="send compressed images, on TOPIC/compressed"
    )
    parser.add_argument("--pose-topic", default="pose", help="topic of the poses (default: pose)")
    parser.add_argument("--frame-id", default="image", help="frame that images name (default: image)")


def main(args: argparse.Namespace) -> int:
    """0, also when SIGINT or SIGTERM ends it. Raises LaunchError."""
    import os

    from ..supervision.processes import environment
    from .stream import check_topic

    for option, topic in (("--topic", args.topic), ("--pose-topic", args.pose_topic)):
        check_topic(option, topic)
    os.environ.update(environment())

    import functools

    import rclpy

    from ..tools.igtl import IgtlAdapter, IgtlReceiver, parse_address
    from ..tools.player import StreamPublisher
    from . import noted_signals

    said = functools.partial(print, flush=True)
    receiver = IgtlReceiver(*parse_address(args.server), said)
    with noted_signals() as ended:
        rclpy.init(args=[], signal_handler_options=rclpy.SignalHandlerOptions.NO)
        try:
            node = StreamPublisher(
                "igtl",
                args.topic,
                args.pose_topic,
                args.compressed or "",
                args.frame_id,
                namespace=args.namespace or None,
            )
            adapter = IgtlAdapter(node, args.image_device, args.transform_device, said)
            said(f"Images go to {node.topic}, poses to {node.pose_topic}; Ctrl-C ends it")
            with receiver:
                while not ended.is_set():
                    for message in receiver.take(_LOOK_S):
                        adapter.send(message)
        finally:
            rclpy.try_shutdown()
    counts = adapter.counts
    left_out = f"; {counts.left_out} could not be used" if counts.left_out else ""
    said(f"{counts.images} images and {counts.poses} poses of {args.server} were sent on{left_out}")
    return 0
