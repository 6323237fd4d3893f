"""Who may talk to the server: requests to its own name, from its own pages, with the token where there is one.

A page elsewhere can make a browser on this machine ask anything of a loopback address, and by rebinding its own name to
it even read the answer. So the name that was asked for (``Host``) must be the server's, and all but the page itself, to
which others may link, must be asked for by that page (``Origin``, ``Sec-Fetch-Site``).
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

COOKIE = "ravst_review"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
"""On every answer: a page runs only the package's own scripts, whatever stands in the rows."""
_SAFE = ("GET", "HEAD")


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own alone."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request isn't answered: a status, a stable key, one sentence."""

    status: int
    error: str
    message: str


@dataclass(frozen=True, slots=True)
class Guard:
    """Decides on requests.

    Args:
        host: the address that is served at.
        token: what a request must carry; None where none is asked for.
    """

    host: str
    token: str | None

    def refusal(self, method: str, path: str, headers: Mapping[str, str], cookies: Mapping[str, str]) -> Refusal | None:
        """Why a request is refused, None where it isn't. Header names are in lower case."""
        asked = headers.get("host", "")
        if not self._is_own(asked):
            return Refusal(421, "wrong_host", "this server doesn't answer to that name; use the address it printed")
        if self.token is not None and not self._knows(headers, cookies):
            return Refusal(401, "no_token", "the token is missing or wrong; open the address with ?token=… again")
        linked = method in _SAFE and path == "/"
        if not linked and not _is_same_origin(headers, asked):
            return Refusal(403, "foreign_page", "only the page of this server may ask and say anything")
        return None

    def is_token(self, text: str) -> bool:
        """Whether a text is the token, in a time that doesn't tell how much of it is right."""
        return self.token is not None and hmac.compare_digest(text.encode(), self.token.encode())

    def _is_own(self, asked: str) -> bool:
        """Served to all networks, the machine has names that nobody knows here: there the token decides."""
        try:
            name = urlsplit(f"//{asked}").hostname or ""
        except ValueError:
            return False
        if name == self.host or (is_loopback(self.host) and is_loopback(name)):
            return True
        return self.token is not None and not is_loopback(self.host)

    def _knows(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> bool:
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        return (kind.lower() == "bearer" and self.is_token(bearer.strip())) or self.is_token(cookies.get(COOKIE, ""))


def _is_same_origin(headers: Mapping[str, str], asked: str) -> bool:
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):  # none: typed by a person
        return False
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == asked
