"""Webhook URLs of tenants cannot reach the operator's network."""

from __future__ import annotations

import os
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpcore
import pytest

from app.core.settings import Settings
from app.models import Webhook, WebhookDelivery
from app.webhooks.delivery import Outcome, Sender
from app.webhooks.guard import GuardedBackend, RefusedError, WebhookUrlError, check_url, is_public
from tests.webhooks.receiver import receiving

HOST = "hooks.example.com"
ALLOWING = Settings(webhook_hosts=frozenset({HOST}))


def test_hosts_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAUDIT_WEBHOOK_HOSTS", " Hooks.example.com, b.example.org ,")
    assert Settings().webhook_hosts == {HOST, "b.example.org"}


@pytest.mark.parametrize(
    "url", [f"https://{HOST}/x?y=1", f"https://{HOST}:443", f"HTTPS://{HOST.upper()}/"]
)
def test_allowed_host_over_https_is_accepted(url: str) -> None:
    check_url(ALLOWING, url)


@pytest.mark.parametrize(
    "url",
    [
        f"http://{HOST}/",
        f"ftp://{HOST}/",
        f"//{HOST}/",
        "",
        f"https://{HOST}:8443/",
        f"https://{HOST}:80/",
        f"https://{HOST}:99999/",
        f"https://user:password@{HOST}/",
        f"https://user@{HOST}/",
        f"https://@{HOST}/",
        f"https://{HOST}@evil.example.net/",
        f"https://evil.example.net#@{HOST}/",
        f"https://evil.example.net\\@{HOST}/",
        f"https://{HOST}/#fragment",
        f"https://{HOST}./",
        f"https://sub.{HOST}/",
        f"https://{HOST}.evil.example.net/",
        f"https://{HOST}\r\nX-Evil: 1/",
        f"https://{HOST}/\tx",
        f"https://{HOST}/ x",
        f"https://{HOST}\0/",
        "https://hooks。example。com/",
        "https://localhost/",
        "http://localhost/",
        "http://127.0.0.1:8000/",
        "https://169.254.169.254/latest/meta-data/",
        "https://metadata.google.internal/",
        "https://[::ffff:127.0.0.1]/",
    ],
)
def test_other_urls_are_rejected(url: str) -> None:
    with pytest.raises(WebhookUrlError):
        check_url(ALLOWING, url)


@pytest.mark.parametrize(
    "host", ["2130706433", "0177.0.0.1", "0x7f.0.0.1", "127.1", "0x7f000001", "8.8.8.8", "[::1]"]
)
def test_ip_addresses_are_rejected_even_if_the_operator_lists_them(host: str) -> None:
    careless = Settings(webhook_hosts=frozenset({host, host.strip("[]")}))
    with pytest.raises(WebhookUrlError):
        check_url(careless, f"https://{host}/")


@pytest.mark.parametrize("url", [f"https://{HOST}/", "https://localhost/", "http://localhost:1/"])
def test_no_url_is_allowed_by_default(url: str) -> None:
    with pytest.raises(WebhookUrlError):
        check_url(Settings(), url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000/hook", "http://[::1]:8000/hook"])
def test_loopback_is_allowed_by_a_setting(url: str) -> None:
    check_url(Settings(webhook_allow_loopback=True), url)


@pytest.mark.parametrize("url", ["http://2130706433:8000/", "http://127.0.0.2/", f"http://{HOST}/"])
def test_loopback_is_allowed_by_its_names_only(url: str) -> None:
    with pytest.raises(WebhookUrlError):
        check_url(Settings(webhook_allow_loopback=True), url)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111"])
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "10.0.0.1", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.16.0.1",
        "192.168.0.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
        "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::a00:1",
        "64:ff9b:1::1", "2001:0:1::1", "2002:7f00:1::", "2001:db8::1", "fc00::1", "fd00:ec2::254",
        "fe80::1", "fe80::1%1", "fec0::1", "ff0e::1",
    ],
)  # fmt: skip
def test_other_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


class Wire(httpcore.AsyncNetworkBackend):
    """Records each connection and redirects it to ``port`` of this machine."""

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.connected: list[tuple[str, int]] = []

    async def connect_tcp(
        self, host: str, port: int, *args: Any, **kwargs: Any
    ) -> httpcore.AsyncNetworkStream:
        self.connected.append((host, port))
        if not self.port or host == "203.0.114.9":
            raise httpcore.ConnectError("connection refused")
        return await httpcore.AnyIOBackend().connect_tcp("127.0.0.1", self.port, *args, **kwargs)


class Resolver:
    """Returns different addresses each time, as a name server does in a rebinding attack."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Iterable[str]:
        self.asked.append(host)
        return self.answers[len(self.asked) - 1]


def connect(resolver: Resolver, wire: Wire, settings: Settings = ALLOWING) -> None:
    async def run() -> None:
        stream = await GuardedBackend(settings, resolver, wire).connect_tcp(HOST, 443)
        await stream.aclose()

    anyio.run(run)


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["8.8.8.8", "169.254.169.254"], ["::ffff:10.0.0.1"], ["8.8.8.8", "::1"]],
)
def test_host_with_any_private_address_is_rejected(addresses: list[str]) -> None:
    wire = Wire()
    with pytest.raises(RefusedError):
        connect(Resolver(addresses), wire)
    assert wire.connected == []


def test_loopback_name_with_another_address_is_rejected() -> None:
    testing = Settings(webhook_allow_loopback=True)
    wire = Wire()

    async def run() -> None:
        await GuardedBackend(testing, Resolver(["8.8.8.8"]), wire).connect_tcp("localhost", 80)

    with pytest.raises(RefusedError):
        anyio.run(run)
    assert wire.connected == []


def test_name_is_resolved_once_per_connection() -> None:
    with receiving() as receiver:
        resolver, wire = Resolver(["203.0.114.7"], ["127.0.0.1"]), Wire(receiver.port)
        connect(resolver, wire)
    assert resolver.asked == [HOST]
    assert wire.connected == [("203.0.114.7", 443)]


def test_rebinding_between_attempts_is_rejected() -> None:
    with receiving() as receiver:
        resolver, wire = Resolver(["203.0.114.7"], ["127.0.0.1"]), Wire(receiver.port)
        connect(resolver, wire)
        with pytest.raises(RefusedError):
            connect(resolver, wire)
    assert len(wire.connected) == 1


def test_next_address_is_tried_if_one_does_not_respond() -> None:
    with receiving() as receiver:
        wire = Wire(receiver.port)
        connect(Resolver(["203.0.114.9", "203.0.114.7"]), wire)
    assert [host for host, _ in wire.connected] == ["203.0.114.9", "203.0.114.7"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a self-signed certificate for HOST."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    key, signed = path.with_name("key.pem"), path.with_name("signed.pem")
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
            "-nodes", "-keyout", key, "-out", signed, "-days", "2", "-subj", f"/CN={HOST}",
            "-addext", f"subjectAltName=DNS:{HOST}",
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )  # fmt: skip
    path.write_bytes(key.read_bytes() + signed.read_bytes())
    return path


def deliver(sender: Sender, url: str) -> Outcome:
    webhook = Webhook(url=url, secret="whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0")
    delivery = WebhookDelivery(event_id="evt_1", type="webhook.test", data={}, created_at=0)
    return anyio.run(sender.send, webhook, delivery)


@contextmanager
def tls_receiver(certificate: Path, names: list[str | None]) -> Iterator[Any]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    with receiving(context) as receiver:
        yield receiver


def test_tls_and_host_header_contain_the_host_name(certificate: Path) -> None:
    names: list[str | None] = []
    trusting = ssl.create_default_context(cafile=str(certificate))
    with tls_receiver(certificate, names) as receiver:
        backend = GuardedBackend(ALLOWING, Resolver(["203.0.114.7"]), Wire(receiver.port))
        outcome = deliver(Sender(ALLOWING, backend, trusting), f"https://{HOST}/hook")
    assert outcome == Outcome(204, "")
    assert names == [HOST]
    assert receiver.requests[0].headers["host"] == HOST


def test_invalid_certificate_is_rejected(certificate: Path) -> None:
    with tls_receiver(certificate, []) as receiver:
        backend = GuardedBackend(ALLOWING, Resolver(["203.0.114.7"]), Wire(receiver.port))
        outcome = deliver(Sender(ALLOWING, backend), f"https://{HOST}/hook")
    assert "CERTIFICATE_VERIFY_FAILED" in (outcome.error or "")
    assert receiver.requests == []


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    testing = Settings(webhook_allow_loopback=True)
    with receiving() as proxy, receiving() as receiver:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setitem(os.environ, name, f"http://127.0.0.1:{proxy.port}")
            monkeypatch.setitem(os.environ, name.upper(), f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("no_proxy", raising=False)
        assert deliver(Sender(testing), receiver.url).status == 204
    assert (len(proxy.requests), len(receiver.requests)) == (0, 1)


def test_url_is_checked_again_before_each_attempt() -> None:
    with receiving() as receiver:
        outcome = deliver(Sender(Settings()), receiver.url)
    assert outcome.error is not None
    assert receiver.requests == []


def test_redirect_is_not_followed() -> None:
    testing = Settings(webhook_allow_loopback=True)
    with receiving() as other, receiving() as receiver:
        receiver.answer(307, location=other.url)
        assert deliver(Sender(testing), receiver.url).error == "the response had status 307"
    assert other.requests == []


def test_only_the_first_kib_of_a_response_is_read() -> None:
    testing = Settings(webhook_allow_loopback=True)
    with receiving() as receiver:
        receiver.answer(200, b"\0\xff" + b"x" * (32 << 20))
        outcome = deliver(Sender(testing), receiver.url)
    assert outcome == Outcome(200, "\ufffd\ufffd" + "x" * 1022)


def test_missing_response_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.webhooks.delivery.TIMEOUT_SECONDS", 0.5)
    with receiving() as receiver:
        receiver.released.clear()
        outcome = deliver(Sender(Settings(webhook_allow_loopback=True)), receiver.url)
    assert outcome.error == "no response within 0.5 s"


def test_slow_response_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.webhooks.delivery.TIMEOUT_SECONDS", 0.5)

    async def trickle() -> AsyncIterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n"
        while True:
            yield b"x-more: and more\r\n"

    class Drip(httpcore.AsyncNetworkStream):
        """Sends a little data in time, but never a complete response."""

        def __init__(self) -> None:
            self._pieces = trickle()

        async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
            await anyio.sleep(0.02)
            return await anext(self._pieces)

        async def write(self, buffer: bytes, timeout: float | None = None) -> None:
            pass

        async def aclose(self) -> None:
            await self._pieces.aclose()

    class Dripping(httpcore.AsyncNetworkBackend):
        async def connect_tcp(self, *args: Any, **kwargs: Any) -> httpcore.AsyncNetworkStream:
            return Drip()

    testing = Settings(webhook_allow_loopback=True)
    outcome = deliver(Sender(testing, Dripping()), "http://127.0.0.1:1/")
    assert outcome.error == "no response within 0.5 s"


def test_unresolvable_host_is_recorded_as_the_outcome() -> None:
    async def nowhere(host: str, port: int) -> Iterable[str]:
        raise OSError(-2, "Name or service not known")

    backend = GuardedBackend(ALLOWING, nowhere, Wire())
    outcome = deliver(Sender(ALLOWING, backend), f"https://{HOST}/")
    assert "Name or service not known" in (outcome.error or "")
