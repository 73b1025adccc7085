"""HTTP as we speak it: our TLS, our credentials, no redirects, answers of bounded size and time."""

import ssl
import time
from typing import Any, Final

import requests
from requests.adapters import HTTPAdapter

from node.core.errors import ConfigError, Fatal, Temporary
from node.dicom.scu.peer import Peer, Web
from node.dicom.scu.secure import Outspoken, said_by_tls
from node.dicom.tls import client_context

_LARGEST_ANSWER: Final = 16_000_000  # bytes
_PIECE: Final = 64 * 1024


class Session(requests.Session):
    """To one Peer's DICOMweb server. Raises Temporary, Fatal in place of requests' errors."""

    def __init__(self, peer: Peer, web: Web) -> None:
        """Raises Fatal naming a file of ours that cannot be used."""
        super().__init__()
        self._peer = peer
        self.auth = _auth(web)
        if web.url.startswith("https:"):
            try:
                context = client_context(web.tls)
            except ConfigError as error:
                raise Fatal(f"{peer} cannot be spoken to: {error}") from error
            context.sslsocket_class = Outspoken
            self.mount("https://", _OurTls(context, web))

    def request(self, *arguments: Any, **options: Any) -> requests.Response:
        """As requests'; a redirect is not followed: credentials go nowhere else."""
        options |= {"allow_redirects": False, "stream": True}
        options["timeout"] = self._peer.timeout_seconds
        try:
            response = super().request(*arguments, **options)
            response._content = self._read(response)
        except ValueError:  # of a URL or a header that cannot be one; it would repeat a secret
            raise Fatal(
                f"{self._peer}: its url, user, password or token cannot be used; mend it here"
            ) from None
        except requests.RequestException as error:
            raise _why(self._peer, error) from error
        if 300 <= response.status_code < 400:
            status = f"HTTP {response.status_code}"
            raise Fatal(f"{self._peer} sends us elsewhere ({status}): write that url here")
        return response

    def _read(self, response: requests.Response) -> bytes:
        deadline = time.monotonic() + self._peer.timeout_seconds
        body = b""
        for piece in response.iter_content(_PIECE):
            body += piece
            if len(body) > _LARGEST_ANSWER or time.monotonic() > deadline:
                response.close()
                raise Temporary(f"{self._peer} did not come to an end with its answer")
        return body


class _OurTls(HTTPAdapter):
    """With our SSLContext alone: requests would believe its own authorities as well."""

    def __init__(self, context: ssl.SSLContext, web: Web) -> None:
        self._context, self._verify_host_name = context, web.tls.verify_host_name
        super().__init__(max_retries=0)

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: Any, cert: Any = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        host, _ = super().build_connection_pool_key_attributes(request, True)
        tls: dict[str, Any] = {"ssl_context": self._context, "cert_reqs": "CERT_REQUIRED"}
        if not self._verify_host_name:
            tls["assert_hostname"] = False
        return host, tls

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """The context does."""


class _Bearer(requests.auth.AuthBase):
    """RFC 6750. As an auth, or requests would put what a .netrc says in its place."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _Nobody(requests.auth.AuthBase):
    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


def _auth(web: Web) -> requests.auth.AuthBase:
    if web.token:
        return _Bearer(web.token)
    if web.user:
        return requests.auth.HTTPBasicAuth(web.user.encode(), web.password.encode())
    return _Nobody()


def _why(peer: Peer, error: requests.RequestException) -> Temporary | Fatal:
    """What failed, in our words."""
    chain = list(_chain(error))
    if said := next((one for one in chain if isinstance(one, ssl.SSLError)), None):
        return said_by_tls(peer, said)
    if isinstance(error, requests.Timeout):
        return Temporary(f"{peer} did not answer within {peer.timeout_seconds:g} s")
    reasons = [one.strerror for one in chain if isinstance(one, OSError) and one.strerror]
    return Temporary(f"{peer} cannot be reached: {reasons[-1] if reasons else 'it broke off'}")


def _chain(error: BaseException, depth: int = 0) -> Any:
    """The error and all that it holds or came from."""
    yield error
    if depth < 8:
        inner = [error.__cause__, error.__context__, getattr(error, "reason", None), *error.args]
        for one in inner:
            if isinstance(one, BaseException):
                yield from _chain(one, depth + 1)
