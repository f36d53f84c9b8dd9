# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Who may come in: the key, the cookie that stands for it, and the names by which a browser may ask for this server."""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
from collections.abc import Collection

# A name or an IP address, and a port.
_HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[^\[\]:/@\s]+)(:\d{1,5})?")
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class Access:
    """The key of one run of the server, and what follows from it."""

    def __init__(self, address: str, host_names: Collection[str]) -> None:
        """address: the IP address that is listened on. host_names: further names, such as a proxy's."""
        self.key = secrets.token_urlsafe(24)
        self._once: set[str] = set()
        self._names = _LOOPBACK | {address} | {name.lower() for name in host_names}
        # A page of another site cannot be served from an IP address of ours, so each of them is as good as its name.
        self._any_address = ipaddress.ip_address(address).is_unspecified

    def key_for_once(self) -> str:
        """A key that opens one time. It may stand in a list of processes, where the key itself may not."""
        key = secrets.token_urlsafe(24)
        self._once.add(key)
        return key

    def opens(self, key: str) -> bool:
        if key in self._once:
            self._once.remove(key)
            return True
        return hmac.compare_digest(key.encode(errors="replace"), self.key.encode())

    def cookie_of(self, session_id: str) -> str:
        """What a browser shows from then on instead of the key."""
        return f"{session_id}.{hmac.digest(self.key.encode(), session_id.encode(), 'sha256').hex()}"

    def session_of(self, cookie: str) -> str | None:
        """The id of the session that a cookie is for; None: it is not ours."""
        session_id = cookie.partition(".")[0]
        is_ours = hmac.compare_digest(cookie.encode(errors="replace"), self.cookie_of(session_id).encode())
        return session_id if is_ours else None

    def knows_host(self, host: str) -> bool:
        """Whether a Host header names this server: another site's name may have been pointed to our address.

        Any port is good, as `ssh -L` and proxies have ports of their own.
        """
        found = _HOST.fullmatch(host)
        if not found:
            return False
        name = found["name"].strip("[]").lower()
        return name in self._names or (self._any_address and _is_address(name))

    @staticmethod
    def is_own_origin(origin: str | None, host: str) -> bool:
        """Whether a request comes from a page of this server. A browser always says so, where more than reading is asked."""
        return origin is not None and origin.lower() in {f"http://{host.lower()}", f"https://{host.lower()}"}


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
