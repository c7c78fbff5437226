# SPDX-License-Identifier: Apache-2.0
"""What an administrator writes by hand: engines as plain units, and the balancers in front of them."""

from collections.abc import Iterable
from enum import StrEnum

PORTS = (8003, 8004, 8005, 8006)  # as in the OVMS guide, and as the agent counts
ADMIN_SOCKET = "/run/haproxy/admin.sock"


class Balancer(StrEnum):
    """Who stands in front of the engines."""

    ours = "ovms-scaler"
    stream = "nginx-stream"
    http = "nginx-http"
    haproxy = "haproxy"
    tuned = "haproxy-tuned"


FRONT_PORT = {
    Balancer.ours: 8000,
    Balancer.stream: 80,
    Balancer.http: 80,
    Balancer.haproxy: 80,
    Balancer.tuned: 80,
}
SERVICE = {
    Balancer.ours: "ovms-scaler-proxy.service",
    Balancer.stream: "nginx.service",
    Balancer.http: "nginx.service",
    Balancer.haproxy: "haproxy.service",
    Balancer.tuned: "haproxy.service",
}

ENGINE_UNIT = """\
[Unit]
Description=OpenVINO Model Server at port %i
[Service]
Environment=LD_LIBRARY_PATH=/opt/ovms/lib PYTHONPATH=/opt/ovms/lib/python OVMS_GRAPH_QUEUE_OFF=1
ExecStart=/opt/ovms/bin/ovms --rest_port %i --rest_bind_address 127.0.0.1 --rest_workers {rest_workers} \\
    --metrics_enable --model_name {model} --model_path {model_path} --task text_generation
LimitNOFILE=65536
Restart=always
# As the units of ovms-scaler have it, so that an engine is away for as long behind each balancer.
RestartSec=2s
"""

# "Scaling on dual CPU sockets" of OVMS's demos, as it is but for the number of ports; Debian has the module
# apart and names the file of the process id.
_GUIDE = """\
load_module modules/ngx_stream_module.so;
pid {pid};
worker_processes 16;
worker_rlimit_nofile 40000;
events {{
    worker_connections 10000;
}}
stream {{
    upstream ovms-cluster {{
        least_conn;
{servers}
    }}
    server {{
        listen {listen};
        proxy_pass ovms-cluster;
    }}
}}
"""

_HTTP = """\
pid {pid};
worker_processes auto;
worker_rlimit_nofile 40000;
events {{
    worker_connections 10000;
}}
http {{
    access_log off;
    upstream ovms-cluster {{
        least_conn;
{servers}
    }}
    server {{
        listen {listen};
        location / {{
            proxy_pass http://ovms-cluster;
        }}
    }}
}}
"""

# The time-outs are those of Debian's own haproxy.cfg, checks have HAProxy's defaults: every 2 s, 3 failures.
_HAPROXY = """\
global
    user haproxy
    group haproxy
    stats socket {admin} mode 660 level admin
defaults
    mode http
    timeout connect 5000
    timeout client 50000
    timeout server 50000
frontend front
    bind :{listen}
    default_backend engines
backend engines
    balance leastconn
    option httpchk GET /v1/config
{servers}
"""

# HAProxy 2.6. The request must fit into a buffer to be sent a second time (retry-on), and a first token may
# take minutes, so that no time-out tells a hang: only the checks do, which are therefore frequent, look for
# what OVMS says of its model, and on failure end the sessions of that server, which are then sent elsewhere.
# Without http-no-delay the kernel waits for full packets, 200 ms as a rule. The manual says that it "should
# never be used by default", so the plain one above is without it.
_TUNED = """\
global
    user haproxy
    group haproxy
    stats socket {admin} mode 660 level admin
    tune.bufsize 65536
defaults
    mode http
    option http-no-delay
    option redispatch 1
    retries 3
    retry-on all-retryable-errors 404
    timeout connect 1s
    timeout client 30m
    timeout server 30m
    timeout check 200ms
frontend front
    bind :{listen}
    option http-buffer-request
    default_backend engines
backend engines
    balance leastconn
    http-request disable-l7-retry if {{ req.body_size gt 60000 }}
    option httpchk
    http-check send meth GET uri /v1/config
    http-check expect string AVAILABLE
    default-server inter 200ms fall 3 rise 2 on-marked-down shutdown-sessions
    default-server observe layer7 error-limit 10 on-error mark-down
{servers}
"""


def render_engine(*, model: str, model_path: str, rest_workers: int) -> str:
    """The template unit ``engine@PORT.service``."""
    return ENGINE_UNIT.format(model=model, model_path=model_path, rest_workers=rest_workers)


def render_balancer(
    balancer: Balancer, ports: Iterable[int], *, listen: int = 80, pid: str = "/run/nginx.pid"
) -> tuple[str, str]:
    """Path and text of a balancer's configuration. Not for our own, which the agent writes.

    ``pid`` is the file of nginx's process id.
    """
    if balancer in (Balancer.stream, Balancer.http):
        lines = (f"        server localhost:{port};" for port in ports)
        text = _GUIDE if balancer is Balancer.stream else _HTTP
        return "/etc/nginx/nginx.conf", text.format(servers="\n".join(lines), listen=listen, pid=pid)
    if balancer in (Balancer.haproxy, Balancer.tuned):
        lines = (f"    server e{port} 127.0.0.1:{port} check" for port in ports)
        text = _HAPROXY if balancer is Balancer.haproxy else _TUNED
        servers = "\n".join(lines)
        return "/etc/haproxy/haproxy.cfg", text.format(servers=servers, listen=listen, admin=ADMIN_SOCKET)
    raise ValueError(f"cannot write the configuration of {balancer}: the agent does")
