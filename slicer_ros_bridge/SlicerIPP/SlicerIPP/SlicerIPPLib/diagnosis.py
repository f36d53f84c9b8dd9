# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Says in one sentence whether a bridge answers at an address, and if not, what to do."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from samm_core import ipp

from .i18n import tr as _
from .keys import Keys, Link, read_keys, token_for, use_keys

if TYPE_CHECKING:
    import zmq

LIMIT_S = 3.0
HELLO_AGAIN_S = 0.3
POLL_S = 0.05


def diagnose(address: str, keys_folder: str = "") -> str:
    """Try the bridge at `address`. Blocks, LIMIT_S at most."""
    import zmq

    try:
        return _try(address, read_keys(keys_folder))
    except ipp.ProtocolError:
        return _(
            "What answers at {address} is no slicer_bridge; its port is 8800 unless bridge_port:= says otherwise."
        ).format(address=address)
    except (ConnectionError, ValueError) as error:
        return str(error)
    except zmq.ZMQError as error:
        return _("{address} is no address ({reason}); write it as tcp://HOST:8800.").format(
            address=address, reason=error.strerror
        )


def _try(address: str, keys: Keys | None) -> str:
    import zmq

    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.linger = 0
    # Hello is sent on the connection that was looked at, or on none.
    dealer.immediate = 1
    use_keys(dealer, keys)
    link = Link(dealer.get_monitor_socket())
    try:
        dealer.connect(address)
        answer, seen = _ask(dealer, link, lambda connection: "" if keys else token_for(connection, address))
        if answer is not None:
            _send(dealer, link, ipp.pack(ipp.FROM_SLICER, "bye"))
    finally:
        dealer.disable_monitor()
        context.destroy(linger=0)
    if answer is None:
        return _why_silent(address, seen)
    if answer.type == "welcome":
        return _("All is well: {software} answers at {address}.").format(
            software=answer["software"], address=address
        )
    return _("The bridge at {address} answers: {answer}").format(
        address=address, answer=answer.get("message", answer.type)
    )


def _ask(
    dealer: zmq.Socket, link: Link, token_of: Callable[[int], str]
) -> tuple[ipp.Message | None, set[int]]:
    """Say hello once connected, and again: the bridge's answer, if one comes in time, and the socket's events.

    token_of: as token_for, of a connection; its ConnectionError is raised if it lasts.
    """
    import zmq

    hello = {
        "version": ipp.VERSION,
        "client": f"test-{os.getpid()}-{time.monotonic_ns()}",
        "software": "Slicer-IPP",
    }
    seen: set[int] = set()
    untold: ConnectionError | None = None
    next_hello = now = time.monotonic()
    deadline = now + LIMIT_S
    while now < deadline:
        dealer.poll(1000 * min(deadline - now, POLL_S))
        seen.update(link.update())
        while dealer.getsockopt(zmq.EVENTS) & zmq.POLLIN:
            frames = dealer.recv_multipart()
            if link.has_said_hello:
                return ipp.unpack(ipp.FROM_BRIDGE, frames), seen
        now = time.monotonic()
        if link.connection is not None and now >= next_hello:
            next_hello = now + HELLO_AGAIN_S
            try:
                token = token_of(link.connection)
            except ConnectionError as error:
                untold = error
                continue
            untold = None
            link.has_said_hello = True
            _send(dealer, link, ipp.pack(ipp.FROM_SLICER, "hello", **hello, token=token))
    if untold and link.connection is not None:
        raise untold
    return None, seen


def _send(dealer: zmq.Socket, link: Link, frames: list[bytes]) -> None:
    import zmq

    link.update()
    if link.has_said_hello:
        with contextlib.suppress(zmq.Again):
            dealer.send_multipart(frames, zmq.DONTWAIT)


def _why_silent(address: str, seen: set[int]) -> str:
    import zmq

    if zmq.EVENT_CONNECTED not in seen:
        text = _(
            "Nothing listens at {address}: start the graph there (./samm up), and check the address and the firewall "
            "between."
        )
    elif zmq.EVENT_HANDSHAKE_SUCCEEDED not in seen:
        text = _(
            "{address} refuses this Slicer: it wants keys, or does not know these. Choose the folder with "
            "client.key_secret and server.key, and see that client.key lies in the bridge's folder `allowed`."
        )
    else:
        text = _(
            "{address} does not answer: is it slicer_bridge's port (8800)? The SAMM extension's is 8799. "
            "A bridge in a container wants keys."
        )
    return text.format(address=address)
