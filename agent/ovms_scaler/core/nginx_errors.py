# SPDX-License-Identifier: Apache-2.0
"""What nginx itself has to say to clients, in the form that OpenAI's clients expect."""

import json

from ovms_scaler.core.credentials import Access
from ovms_scaler.core.nginx_syntax import block

# Every status nginx makes itself -> OpenAI's error type and code, and a sentence.
_ERRORS = {
    400: (
        "invalid_request_error",
        "bad_request",
        "The request is not valid HTTP, or its headers are too large.",
    ),
    403: ("invalid_request_error", "forbidden", "This is not allowed."),
    404: ("invalid_request_error", "not_found", "No such API here: /v3/, /v1/ and /v2 are served."),
    405: ("invalid_request_error", "method_not_allowed", "This method is not allowed."),
    408: ("invalid_request_error", "request_timeout", "The request did not arrive in time."),
    411: ("invalid_request_error", "length_required", "The request needs a Content-Length."),
    413: ("invalid_request_error", "request_too_large", "The request body is larger than allowed."),
    414: ("invalid_request_error", "uri_too_long", "The request line is too long."),
    416: ("invalid_request_error", "bad_range", "The range cannot be served."),
    500: ("server_error", "proxy_error", "The proxy could not handle the request."),
    501: ("invalid_request_error", "not_implemented", "The proxy does not implement this."),
    502: ("server_error", "instance_failed", "The instances that were asked failed before they answered."),
    503: ("server_error", "unavailable", "No instance can take the request now; try again later."),
    504: ("server_error", "instance_timeout", "The instance did not begin to answer in time."),
    505: ("invalid_request_error", "http_version", "This HTTP version is not supported."),
}
# 494 is what nginx calls headers that are too large; it is sent as 400.
_STATUSES = " ".join(str(status) for status in sorted((*_ERRORS, 494)))
ERROR_PATH = "/.ovms-scaler/error"
_NO_KEY = (
    "invalid_request_error",
    "invalid_api_key",
    "A valid API key is needed, as in the header Authorization: Bearer KEY.",
)
# For nginx's 497, a request without TLS on a port with it; it is sent as 400.
_WITHOUT_TLS = (
    "invalid_request_error",
    "tls_required",
    "This port speaks TLS: the URL must begin with https.",
)


def render_error(status: int) -> str:
    """The JSON body in OpenAI's form for an error that nginx itself makes."""
    return _render_body(*_ERRORS[status])


def render_error_map() -> list[str]:
    """The map ``$status`` -> ``$ovms_error``, the JSON body of an error."""
    return block(
        "map $status $ovms_error",
        f"default '{render_error(500)}';",
        *(f"{status} '{render_error(status)}';" for status in _ERRORS),
    )


def render_error_pages(access: Access) -> list[str]:
    """What a server says in place of nginx's own pages of HTML; an engine's words pass untouched."""
    lines = [
        f"error_page {_STATUSES} {ERROR_PATH};",
        *block(f"location = {ERROR_PATH}", "internal;", "return 200 $ovms_error;"),
    ]
    if access.has_api_keys:
        # RFC 9110, 11.6.1: a 401 names the scheme that is expected.
        challenge = "add_header WWW-Authenticate Bearer always;"
        lines += _render_own_page(401, "@unauthorized", challenge, f"return 401 '{_render_body(*_NO_KEY)}';")
    if access.has_tls:
        lines += _render_own_page(497, "@without_tls", f"return 400 '{_render_body(*_WITHOUT_TLS)}';")
    return lines


def _render_own_page(status: int, location: str, *body: str) -> list[str]:
    return [f"error_page {status} {location};", *block(f"location {location}", *body)]


def _render_body(kind: str, code: str, message: str) -> str:
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})
