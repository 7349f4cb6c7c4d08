"""What stands before every request: whom the server answers, how much it takes, what browsers may do with it.

A server on this machine can be reached by every page that its user opens. A page of another site may post a
form to it (which the headers `Sec-Fetch-Site` and `Origin` tell), or have its own name point to this machine
afterwards (DNS rebinding), which the header `Host` tells: then it is neither an address nor a name of ours.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_NO_PAGE = "default-src 'none'; frame-ancestors 'none'"


class Guard:
    """ASGI middleware that refuses other sites' requests and too large ones.

    Args:
        app: What it stands before.
        hosts: Names of this server besides addresses, `localhost` and the machine's own; "*" for any name
            and any page.
        most_bytes: Of a request's body.
    """

    def __init__(self, app: ASGIApp, *, hosts: Sequence[str], most_bytes: int) -> None:
        self.app, self.most_bytes = app, most_bytes
        self.anyone = "*" in hosts
        self.named = {name.lower() for name in hosts}
        own = socket.gethostname().lower()
        self.known = {*self.named, "localhost", own, f"{own.partition('.')[0]}.local"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    sent.setdefault(name, value)
                sent.setdefault("Content-Security-Policy", _NO_PAGE)
            await send(message)

        refusal = self._refusal(str(scope["method"]), headers)
        if refusal is not None:
            status, sentence = refusal
            await JSONResponse({"error": sentence}, status)(scope, receive, send_with_headers)
            return
        await self.app(scope, self._counted(receive), send_with_headers)

    def _refusal(self, method: str, headers: Headers) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if not self.anyone and host and not self._is_own(host):
            return 403, (
                f"the name {host!r} is not known to be this server's; open it by its address, or start it "
                "with `--allow-host NAME`"
            )
        if not self.anyone and method == "POST" and self._from_elsewhere(headers, host):
            return 403, "a page of another site asked for this prediction; only the server's own page may"
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self.most_bytes:
            return 413, self._too_large()
        return None

    def _is_own(self, host: str) -> bool:
        name = _name(host)
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(name)
            return True  # nobody else's name leads to a number
        return name in self.known

    def _from_elsewhere(self, headers: Headers, host: str) -> bool:
        """Whether a browser says that another site's page asks; programs that are no browser say nothing."""
        site = headers.get("sec-fetch-site")
        if site is not None:
            return site not in ("same-origin", "none")
        origin = headers.get("origin")
        if origin is None:
            return False
        own = origin.partition("://")[2].lower() == host.lower()
        return not own and _name(origin.partition("://")[2]) not in self.named  # behind a proxy

    def _counted(self, receive: Receive) -> Receive:
        """A request without a length is counted as it comes."""
        taken = 0

        async def receive_counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.most_bytes:
                raise HTTPException(413, self._too_large())
            return message

        return receive_counted

    def _too_large(self) -> str:
        return (
            f"at most {self.most_bytes / 2**20:,.6g} MB a request; give less at a time, or raise --max-upload"
        )


def _name(host: str) -> str:
    """The name or address of `name:port`, in lower case; "" where it is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""
