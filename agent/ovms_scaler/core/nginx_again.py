# SPDX-License-Identifier: Apache-2.0
"""Pieces of nginx configuration that ask again for a request which no instance has begun to answer.

nginx tries as many servers as proxy_next_upstream_tries says, two. One that refuses the connection uses up
a try, though it never got the request, and least_conn prefers those that are dead, as they have no
connections. So a request that failed is given another round, until two instances have got it or somebody
answers. Those that refuse are left alone for a second after a few failures (core/route.py), which ends the
rounds.
"""

from ovms_scaler.core.nginx_errors import ERROR_PATH
from ovms_scaler.core.nginx_syntax import block
from ovms_scaler.core.nginx_text import PASS

# nginx follows ten redirects of a request (NGX_HTTP_MAX_URI_CHANGES), then says 500 in its own words. The
# way out takes up to three.
_ROUNDS = 6


def render_again_map() -> list[str]:
    """The map ``$upstream_connect_time`` -> ``$ovms_failed``, where a request goes that failed.

    It has the seconds of each try that was connected and "-" for the others, and " : " between rounds, as in
    "-, 0.000 : -" (ngx_http_upstream_response_time_variable). A refusal that comes late counts as connected,
    so that an instance may be asked too rarely, never too often.
    """
    return [
        "# Where a request goes when none of those asked has begun to answer: how many of them got it?",
        *block(
            "map $upstream_connect_time $ovms_failed",
            "volatile;",
            "default @again;",
            r'"~\..*\." @failed;',
            f'"~(?: : [^:]*){{{_ROUNDS}}}" @last_resort;',
            r'"~\." @once;',
        ),
    ]


def render_again_locations() -> list[str]:
    """What ``$ovms_failed`` names, and the use of it in a server, before its other error_page."""
    return [
        "# Nobody got the request, one instance did, or two did.",
        "error_page 502 = $ovms_failed;",
        *block("location @again", PASS),
        *block("location @once", "proxy_next_upstream_tries 1;", PASS),
        *block("location @failed", f"error_page 502 {ERROR_PATH};", "return 502;"),
    ]
