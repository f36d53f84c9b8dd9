# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The front of the browser viewer as a process, with a stand-in for the sessions: who comes in, and what stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp
import psutil
import pytest
from yarl import URL

from samm_ros import cli
from samm_viewer.front.__main__ import main as front_main

TESTS = Path(__file__).parent
# Starts the front with the stand-in as the command of its sessions.
PROGRAM = (
    "import sys; from samm_viewer.front import sessions; from samm_viewer.front.__main__ import main; "
    "sessions.END_LIMIT_S = 3; "  # one test waits for it
    f"sys.exit(main(sys.argv[1:], [sys.executable, {str(TESTS / 'viewer_session.py')!r}]))"
)
LIMIT_S = 30.0


class Front:
    """The front's process, and what it has said."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        """folder: for its temporary files."""
        self.folder = folder
        self.log = folder / "log"
        environment = {**os.environ, "TMPDIR": str(folder)}
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, "--port", "0", *arguments],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.said = json.loads(self.process.stdout.readline())
        self.url = URL(self.said.get("url", ""))
        self.origin = str(self.url.origin()) if self.url.host else ""
        self.key = self.url.query.get("key", "")
        self.shared = ""

    def left(self) -> list[str]:
        """The folders of its runs that are there."""
        return [path.name for path in self.folder.glob("samm-view-*")]

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(LIMIT_S)


@contextlib.contextmanager
def started(folder: Path, *arguments: str) -> Iterator[Front]:
    front = Front(folder, *arguments)
    try:
        yield front
    finally:
        front.process.kill()
        front.process.wait()
        front.process.stdin.close()
        front.process.stdout.close()


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """One for the tests that leave it as they find it, with a session to share."""
    options = (
        "--max-sessions",
        "50",
        "--max-upload",
        "0.000003",
        "--grace",
        "60",
        "--",
        "--volume",
        "brain.nii",
    )
    with started(tmp_path_factory.mktemp("front"), *options) as process:
        asyncio.run(share(process))
        yield process


async def share(front: Front) -> None:
    async with browser(front) as client:
        front.shared = (await about(client))["id"]


def asynchronous(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 60))

    return run


@contextlib.asynccontextmanager
async def browser(
    front: Front, *, comes_in: bool = True, shares: bool = False, **options: object
) -> AsyncIterator[aiohttp.ClientSession]:
    """A cookie jar. comes_in: it has shown the key. shares: it has not a session of its own, but the shared one."""
    jar = aiohttp.CookieJar(unsafe=True)
    headers = {"Accept": "text/html,*/*"}
    async with aiohttp.ClientSession(front.origin, cookie_jar=jar, headers=headers, **options) as client:
        if comes_in:
            wanted = {"session": front.shared} if shares else {}
            async with client.get("/", params={"key": front.key, **wanted}) as answer:
                assert answer.status == 200, await answer.text()
        yield client


async def about(client: aiohttp.ClientSession) -> dict:
    """What the browser's session was started with."""
    async with client.get("/started") as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def is_true(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.02)


def lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    "path", ["/", "/?key=", "/?key=wrong", "/?key=%C3%A9%00", "/index.html", "/started", "/ws", "/link"]
)
@asynchronous
async def test_without_the_key_there_is_a_sentence_and_nothing_else(front: Front, path: str) -> None:
    async with browser(front, comes_in=False) as client:
        async with client.get(URL(path, encoded=True)) as answer:
            assert answer.status == 403
            assert "the address that ./samm view prints" in await answer.text()
            assert not answer.cookies


@asynchronous
async def test_the_key_becomes_a_cookie_and_leaves_the_address(front: Front) -> None:
    async with browser(front, comes_in=False) as client:
        async with client.get("/", params={"key": front.key}, allow_redirects=False) as answer:
            assert answer.status == 303
            cookie = answer.cookies[f"samm_view_{front.said['port']}"]
            assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Strict", "/")
            target = answer.headers["Location"]
        async with client.get(target) as page:
            assert await page.text() == "the page"
            assert page.headers["Cache-Control"] == "no-store"
            assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
            assert page.headers["X-Content-Type-Options"] == "nosniff"
            assert page.headers["Referrer-Policy"] == "no-referrer"
        told = await about(client)
        assert target == f"/?secret={told['secret']}"
        assert "Cookie" not in told["headers"]
        assert set(told["modes"].values()) == {0o700, 0o600}
        assert told["volume"] == "brain.nii"


@asynchronous
async def test_a_page_gets_no_other_settings_from_its_address(front: Front) -> None:
    async with browser(front, shares=True) as client:
        secret = (await about(client))["secret"]
        for path in ("/", "/index.html", "/?secret=old", f"/?secret={secret}&sessionURL=ws://evil.example"):
            async with client.get(path, allow_redirects=False) as answer:
                assert (answer.status, answer.headers["Location"]) == (303, f"/?secret={secret}")


@asynchronous
async def test_a_link_on_another_site_leads_in_too(front: Front) -> None:
    async with browser(front, comes_in=False) as client:
        headers = {"Sec-Fetch-Site": "cross-site"}
        async with client.get(
            "/", params={"key": front.key}, headers=headers, allow_redirects=False
        ) as answer:
            assert answer.status == 200
            assert answer.cookies
            assert 'http-equiv="refresh" content="0;url=/?secret=' in await answer.text()


@asynchronous
async def test_a_key_for_once_opens_once(front: Front) -> None:
    async with browser(front, comes_in=False) as client:
        url = URL(front.said["url_for_once"]).update_query(session=front.shared)
        for status in (303, 403):
            async with client.get(url, allow_redirects=False) as answer:
                assert answer.status == status


@asynchronous
async def test_each_browser_has_a_session_and_its_tabs_share_it(front: Front) -> None:
    async with browser(front) as first, browser(front, shares=True) as second:
        one, other = await about(first), await about(second)
        assert one["pid"] != other["pid"]
        assert one["secret"] != other["secret"]
        async with first.get("/", params={"key": front.key}):  # a second tab
            assert (await about(first))["pid"] == one["pid"]


@asynchronous
async def test_a_session_is_joined_by_its_link(front: Front) -> None:
    async with browser(front, shares=True) as host, browser(front, comes_in=False) as guest:
        async with host.get("/link") as answer:
            link = URL((await answer.text()).split("with you: ")[1].split("<")[0].replace("&amp;", "&"))
        async with guest.get(link) as answer:
            assert answer.status == 200
        assert (await about(guest))["pid"] == (await about(host))["pid"]
        async with guest.get(link.update_query(key="wrong", session="0")) as answer:
            assert answer.status == 403
        async with guest.get(link.update_query(session="00000000")) as answer:
            assert answer.status == 404
            assert "has ended" in await answer.text()


@asynchronous
async def test_a_forged_cookie_opens_nothing(front: Front) -> None:
    async with browser(front, shares=True) as client, browser(front, comes_in=False) as thief:
        session_id = (await about(client))["id"]
        for value in (session_id, f"{session_id}.", f"{session_id}.{'0' * 64}", "", "."):
            headers = {"Cookie": f"samm_view_{front.said['port']}={value}"}
            async with thief.get("/started", headers=headers) as answer:
                assert answer.status == 403


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:{port}", 200),
        ("[::1]:{port}", 200),
        ("127.0.0.1:9000", 200),  # through ssh -L 9000:…
        ("evil.example:{port}", 403),
        ("127.0.0.1.evil.example", 403),
        ("evil.example@127.0.0.1", 403),
        ("192.168.1.20:{port}", 403),
        ("", 403),
    ],
)
@asynchronous
async def test_only_names_of_ours_are_answered(front: Front, host: str, status: int) -> None:
    """Another site's name may have been pointed to this address; a page of that site would then be one of ours."""
    async with browser(front, shares=True) as client:
        headers = {"Host": host.format(port=front.said["port"])}
        cookies = {cookie.key: cookie.value for cookie in client.cookie_jar}
        async with client.get("/started", headers=headers, cookies=cookies) as answer:
            assert answer.status == status, await answer.text()


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "", None])
@asynchronous
async def test_pages_of_other_sites_connect_and_send_nothing(front: Front, origin: str | None) -> None:
    async with browser(front, shares=True) as client:
        headers = {} if origin is None else {"Origin": origin}
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            await client.ws_connect("/ws", headers=headers)
        async with client.post("/upload/a.nii", data=b"1", headers=headers) as answer:
            assert answer.status == 403
        assert not list(Path((await about(client))["folder"], "uploads").iterdir())


@asynchronous
async def test_messages_of_some_megabytes_pass_both_ways(front: Front) -> None:
    async with browser(front, shares=True) as client:
        async with client.ws_connect("/ws", origin=front.origin, max_msg_size=0) as page:
            picture = os.urandom(5_000_000)
            for sent in (picture, b"", "a word", "é" * 100_000):
                await (page.send_bytes if isinstance(sent, bytes) else page.send_str)(sent)
                assert (await page.receive()).data == sent
            assert not page.compress


@asynchronous
async def test_a_file_that_is_sent_is_there_when_it_is_whole(front: Front) -> None:
    async with browser(front) as client:
        folder = Path((await about(client))["folder"])
        for name, path in (
            ("brain.nii.gz", "brain.nii.gz"),
            ("series/1.dcm", "series/1.dcm"),
            ("a%20%C3%A9", "a é"),
        ):
            for content in (b"x" * 1_000, b"new"):  # the second one takes its place
                url = URL(f"/upload/{name}", encoded=True)
                async with client.post(url, data=content, headers={"Origin": front.origin}) as answer:
                    assert await answer.json() == {"name": path, "bytes": len(content)}
                assert (folder / "uploads" / path).read_bytes() == content
        async with client.post("/upload/series", data=b"1", headers={"Origin": front.origin}) as answer:
            assert answer.status == 409
        async with client.post(
            "/upload/brain.nii.gz/1", data=b"1", headers={"Origin": front.origin}
        ) as answer:
            assert answer.status == 409
        assert not list((folder / "parts").iterdir())


@pytest.mark.parametrize(
    "name",
    [
        "..",
        ".",
        "%2e%2e",
        "../x",
        "..%2Fx",
        "a/../x",
        "a/b/c",
        "a%00b",
        "a%0Ab",
        "a%5Cb",
        "a//",
        "x" * 201,
        "%C3%A9" * 150,
    ],
)
@asynchronous
async def test_a_name_that_is_none_is_refused_and_nothing_is_written(front: Front, name: str) -> None:
    async with browser(front, shares=True) as client:
        folder = Path((await about(client))["folder"])
        before = sorted(front.folder.rglob("*"))
        cookie = "; ".join(f"{cookie.key}={cookie.value}" for cookie in client.cookie_jar)
        status, sentence = await asyncio.to_thread(post_as_it_is, front, f"/upload/{name}", cookie)
        assert (status, sentence.partition(";")[0]) == (400, "That is no name of a file")
        assert sorted(front.folder.rglob("*")) == before
        assert folder / "uploads" in before


def post_as_it_is(front: Front, path: str, cookie: str) -> tuple[int, str]:
    """With a path that no client library has made sense of."""
    connection = http.client.HTTPConnection("127.0.0.1", front.said["port"], timeout=LIMIT_S)
    with contextlib.closing(connection):
        connection.request("POST", path, b"hostile", {"Cookie": cookie, "Origin": front.origin})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


@asynchronous
async def test_what_is_too_large_or_breaks_off_leaves_nothing(front: Front) -> None:
    async def pieces(count: int, error: Exception | None = None) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield bytes(1000)
        if error:
            raise error

    async with browser(front) as client:
        folder = Path((await about(client))["folder"])
        headers = {"Origin": front.origin}
        for body in (bytes(4000), pieces(4)):  # with its length said before, and not
            async with client.post("/upload/large", data=body, headers=headers) as answer:
                assert answer.status == 413
                assert "--max-upload" in await answer.text()
        with pytest.raises(aiohttp.ClientError):
            async with client.post("/upload/broken", data=pieces(1, OSError()), headers=headers):
                pass
        await is_true(lambda: not list((folder / "parts").iterdir()), "a part stays")
        assert not list((folder / "uploads").iterdir())
        # And none of it counts.
        for status in (201, 413):
            async with client.post(f"/upload/{status}", data=bytes(2000), headers=headers) as answer:
                assert answer.status == status


@asynchronous
async def test_what_the_session_has_removed_makes_room(front: Front) -> None:
    async with browser(front) as client:
        uploads = Path((await about(client))["folder"]) / "uploads"

        async def send(name: str, content: bytes) -> int:
            async with client.post(
                f"/upload/{name}", data=content, headers={"Origin": front.origin}
            ) as answer:
                return answer.status

        assert [await send(name, bytes(1200)) for name in ("series/1", "series/2", "3")] == [201, 201, 413]
        shutil.rmtree(uploads / "series")
        assert [await send(name, bytes(1200)) for name in ("3", "4", "5")] == [201, 201, 413]
        # A file that took another one's place is one file.
        assert [await send("3", bytes(size)) for size in (500, 1200, 500)] == [201, 201, 201]
        assert sorted(path.name for path in uploads.iterdir()) == ["3", "4"]


@asynchronous
async def test_a_temporary_folder_that_is_a_link_serves_too(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "link"
    link.symlink_to("disk")
    with started(link) as front:
        async with browser(front) as client:
            folder = Path((await about(client))["folder"])
            assert folder.is_relative_to(link)
            async with client.post("/upload/a.nii", data=b"sent", headers={"Origin": front.origin}) as answer:
                assert answer.status == 201
            assert (folder / "uploads" / "a.nii").read_bytes() == b"sent"
            (folder / "downloads" / "made").write_bytes(b"made")
            (folder / "downloads" / "astray").symlink_to(folder / "secret")
            async with client.get("/download/made") as answer:
                assert (answer.status, await answer.read()) == (200, b"made")
            async with client.get("/download/astray") as answer:
                assert answer.status == 404


@asynchronous
async def test_a_session_has_few_arenas_unless_the_user_wants_others(
    front: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def arenas(of: Front) -> str:
        async with browser(of) as client:
            return psutil.Process((await about(client))["pid"]).environ()["MALLOC_ARENA_MAX"]

    assert await arenas(front) == os.environ.get("MALLOC_ARENA_MAX", "2")
    monkeypatch.setenv("MALLOC_ARENA_MAX", "5")
    with started(tmp_path) as other:
        assert await arenas(other) == "5"


@asynchronous
async def test_a_file_that_was_made_is_downloaded_under_its_name(front: Front) -> None:
    async with browser(front) as client, browser(front, shares=True) as other:
        folder = Path((await about(client))["folder"])
        (folder / "downloads" / "é 1.html").write_bytes(b"<script>")
        (folder / "downloads" / "link").symlink_to(folder / "secret")
        async with client.get("/download/é 1.html") as answer:
            assert await answer.read() == b"<script>"
            assert answer.headers["Content-Disposition"] == "attachment; filename*=UTF-8''%C3%A9%201.html"
            assert answer.content_type == "application/octet-stream"
            assert answer.headers["Cache-Control"] == "no-store"
        for name in ("absent", "link", "..%2Fsecret"):
            async with client.get(URL(f"/download/{name}", encoded=True)) as answer:
                assert answer.status in (400, 404)
        async with other.get("/download/é 1.html") as answer:
            assert answer.status == 404, "another session's file"


@asynchronous
async def test_what_is_not_there_is_said(front: Front) -> None:
    async with browser(front, shares=True) as client:
        async with client.get("/absent") as answer:
            assert (answer.status, "There is no such page." in await answer.text()) == (404, True)
        async with client.post("/absent", headers={"Origin": front.origin}) as answer:
            assert answer.status == 405


@asynchronous
async def test_a_session_that_dies_is_told_and_a_reload_starts_another(front: Front) -> None:
    async with browser(front) as client:
        before = await about(client)
        async with client.ws_connect("/ws", origin=front.origin) as page:
            await page.send_str("crash")
            closed = await page.receive()
            assert closed.type is aiohttp.WSMsgType.CLOSE
            assert (closed.data, closed.extra) == (1011, "The session has ended; reload the page.")
        await is_true(lambda: not Path(before["folder"]).exists(), "its folder stays")
        async with client.get("/started") as answer:
            assert answer.status == 503
            assert "reload the page" in await answer.text()
        async with client.get(f"/?secret={before['secret']}") as answer:
            assert await answer.text() == "the page"
        after = await about(client)
        assert (after["id"], after["pid"] != before["pid"]) == (before["id"], True)


@asynchronous
async def test_a_session_ends_when_its_last_page_was_closed(tmp_path: Path) -> None:
    with started(tmp_path, "--grace", "0.2") as front:
        async with browser(front) as client:
            told = await about(client)
            async with client.ws_connect("/ws", origin=front.origin) as page:
                async with client.ws_connect("/ws", origin=front.origin):
                    pass
                # More than the grace, and the session still answers the page that is open.
                for _ in range(50):
                    await page.send_str("?")
                    await page.receive()
                    await asyncio.sleep(0.01)
                assert lives(told["pid"])
            await is_true(lambda: not lives(told["pid"]), "its process goes on")
            await is_true(lambda: not Path(told["folder"]).exists(), "its folder stays")


@asynchronous
async def test_the_session_that_is_ready_for_the_first_browser_ends_when_none_comes(tmp_path: Path) -> None:
    with started(tmp_path, "--grace", "0.2", "--", "--stubborn") as front:
        process = psutil.Process(front.process.pid)
        await is_true(lambda: bool(process.children()), "none is started")
        await is_true(lambda: not process.children(), "it goes on, deaf to SIGTERM")
        await is_true(lambda: len(list(tmp_path.glob("samm-view-*/*"))) == 1, "its folder stays")


@asynchronous
async def test_there_are_so_many_sessions_and_no_more(tmp_path: Path) -> None:
    with started(tmp_path, "--max-sessions", "1", "--grace", "0.2") as front:
        async with browser(front) as first, browser(front, comes_in=False) as second:
            async with first.ws_connect("/ws", origin=front.origin):
                async with second.get("/", params={"key": front.key}) as answer:
                    assert answer.status == 503
                    assert "Try again when somebody has closed the page." in await answer.text()

            async def comes_in() -> bool:
                async with second.get("/", params={"key": front.key}) as answer:
                    return answer.status == 200

            deadline = time.monotonic() + LIMIT_S
            while not await comes_in():
                assert time.monotonic() < deadline


@asynchronous
async def test_a_session_that_does_not_start_says_why(tmp_path: Path) -> None:
    with started(tmp_path, "--", "--broken", "There is no <graph>.") as front:
        async with browser(front, comes_in=False) as client:
            async with client.get("/", params={"key": front.key}) as answer:
                assert answer.status == 500
                assert "There is no &lt;graph&gt;." in await answer.text()
        await is_true(lambda: len(list(tmp_path.glob("samm-view-*/*"))) == 1, "its folder stays")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, None])
@asynchronous
async def test_the_end_of_the_front_is_the_end_of_its_sessions(tmp_path: Path, how: int | None) -> None:
    """None: whoever started it is gone, so its stdin is closed."""
    with started(tmp_path) as front:
        async with browser(front) as client:
            pid = (await about(client))["pid"]
            async with client.ws_connect("/ws", origin=front.origin) as page:
                if how is None:
                    front.process.stdin.close()
                else:
                    front.process.send_signal(how)
                async for _ in page:
                    pass
        await asyncio.to_thread(front.process.wait, LIMIT_S)
        await is_true(lambda: not lives(pid), "a session goes on")
        if how is signal.SIGKILL:
            # What it could not remove, the next one does.
            assert front.left()
            with started(tmp_path) as other:
                assert len(other.left()) == 1
                assert other.end() == 0
        else:
            assert front.process.returncode == 0
        assert not front.left()
        assert "Traceback" not in front.log.read_text()


@asynchronous
async def test_a_front_beside_another_leaves_its_folder_alone(front: Front, tmp_path: Path) -> None:
    async with browser(front) as client:
        folder = Path((await about(client))["folder"])
        with started(front.folder) as beside:
            assert beside.end() == 0
        assert folder.exists()


@asynchronous
async def test_every_address_of_this_computer_is_one_of_its_names(tmp_path: Path) -> None:
    with started(tmp_path, "--address", "0.0.0.0", "--host-name", "Viewer.example") as front:
        assert front.url.host == "127.0.0.1"
        async with browser(front) as client:
            cookies = {cookie.key: cookie.value for cookie in client.cookie_jar}
            for host, status in (
                ("192.168.1.20:8080", 200),
                ("viewer.example", 200),
                ("[2001:db8::1]:8080", 200),
                ("evil.example", 403),
            ):
                async with client.get("/started", headers={"Host": host}, cookies=cookies) as answer:
                    assert answer.status == status, host


@asynchronous
async def test_tls_with_a_certificate(tmp_path: Path) -> None:
    certificate, key = certificate_of_localhost(tmp_path)
    with started(tmp_path, "--certificate", str(certificate), "--certificate-key", str(key)) as front:
        assert front.url.scheme == "https"
        import ssl

        trust = ssl.create_default_context(cafile=str(certificate))
        async with browser(front, connector=aiohttp.TCPConnector(ssl=trust)) as client:
            assert [cookie["secure"] for cookie in client.cookie_jar] == [True]
            async with client.ws_connect("/ws", origin=front.origin) as page:
                await page.send_str("a word")
                assert await page.receive_str() == "a word"


def certificate_of_localhost(folder: Path) -> tuple[Path, Path]:
    from datetime import datetime, timedelta, timezone
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(timezone.utc)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    )
    return files


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--address", "viewer.example"], '"viewer.example" is no IP address; give one, such as 127.0.0.1.'),
        (["--address", "192.0.2.1"], "it is no address of this computer"),
        (["--port", "70000"], "70000 is no port; give one from 1 to 65535"),
        (["--certificate", "absent.pem"], "TLS needs two files"),
        (
            ["--certificate", "absent.pem", "--certificate-key", "absent.pem"],
            "are no certificate and its key (No such file",
        ),
    ],
)
def test_a_front_that_cannot_serve_says_why(
    capsys: pytest.CaptureFixture, arguments: list[str], sentence: str
) -> None:
    assert front_main(["--port", "0", *arguments]) == 1
    said = capsys.readouterr()
    assert sentence in json.loads(said.out)["error"]
    assert not said.err


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert front_main(["--port", str(port)]) == 1
    sentence = f"at 127.0.0.1:{port}: another program listens there; give another --port"
    assert sentence in json.loads(capsys.readouterr().out)["error"]


@pytest.fixture
def bridge() -> Iterator[str]:
    """The address of something that listens: a graph is started where nothing does."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"tcp://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["absent.nii"], "There is no absent.nii; give a file, or a folder of DICOM files."),
        (["--root", "absent"], "absent is no folder; give one that is there."),
        (["--keys", "absent"], "absent is no folder; give one that is there."),
        (
            ["--bridge", "127.0.0.1:8800"],
            '"127.0.0.1:8800" is no address of a bridge; write it as tcp://127.0.0.1:8800.',
        ),
        (["--bridge", "tcp://127.0.0.1:1"], "Nothing listens at tcp://127.0.0.1:1; start the graph there"),
        (["--address", "viewer.example"], '"viewer.example" is no IP address'),
    ],
)
def test_view_refuses_what_cannot_be_in_a_sentence(
    capsys: pytest.CaptureFixture, bridge: str, arguments: list[str], sentence: str
) -> None:
    words = arguments if "--bridge" in arguments else ["--bridge", bridge, *arguments]
    assert cli.main(["view", "--no-browser", *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("samm view: ")
    assert sentence in said
    assert said.count("\n") == 1


def test_view_serves_the_page_until_it_is_ended(tmp_path: Path, bridge: str) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path), "SSH_CONNECTION": "192.0.2.1 1 192.0.2.2 2222"}
    command = [
        sys.executable,
        "-m",
        "samm_ros.cli",
        "view",
        "--no-browser",
        "--bridge",
        bridge,
        "--port",
        "0",
    ]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as view:
        try:
            first = view.stdout.readline()
            if not first:
                error = view.stderr.read()
                assert "sudo apt install libegl1" in error
                pytest.skip(error)
            url = URL(first.split()[-1])
            assert f"ssh -N -L {url.port}:127.0.0.1:{url.port} " in view.stdout.readline()
            connection = http.client.HTTPConnection("127.0.0.1", url.port, timeout=LIMIT_S)
            with contextlib.closing(connection):
                connection.request("GET", "/")
                assert connection.getresponse().status == 403
            children = psutil.Process(view.pid).children(recursive=True)
            assert children
        finally:
            view.terminate()
            view.communicate(timeout=LIMIT_S)
    assert view.returncode == 0
    assert not psutil.wait_procs(children, LIMIT_S)[1]
    assert not list(tmp_path.iterdir())
