"""What connections may take: limits of one HTTP process, and the refusals that no app has a say in."""

from __future__ import annotations

import ipaddress
import logging
import resource
from typing import NamedTuple

from radixmill.core.config import ServerOptions
from radixmill.core.errors import ServeError

log = logging.getLogger("radixmill.front")

SPARE_FILES = 256  # open files besides connections


class UrlTooLong(ServeError):
    status, type, code = 414, "invalid_request_error", "url_too_long"


class HeadTooLarge(ServeError):
    status, type, code = 431, "invalid_request_error", "headers_too_large"


class TooSlow(ServeError):
    status, type, code = 408, "invalid_request_error", "request_timeout"


class Limits(NamedTuple):
    """Of one HTTP process. Sizes in bytes, times in seconds; 0 connections from an address: any number."""

    header_bytes: int
    headers: int
    url_bytes: int
    header_seconds: float
    body_seconds: float
    body_rate: int  # bytes a second
    keep_alive: float
    write_seconds: float
    connections: int
    per_address: int

    @classmethod
    def of(cls, server: ServerOptions) -> Limits:
        return cls(
            server.max_header_bytes,
            server.max_headers,
            server.max_url_bytes,
            server.header_timeout,
            server.body_timeout,
            server.body_rate,
            server.keep_alive_timeout,
            server.write_timeout,
            server.max_connections,
            server.max_connections_per_address,
        )


def network(host: str) -> str:
    """Whom an address belongs to: of IPv6, nobody has less than a /64."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))


def fit_files(limits: Limits) -> Limits:
    """Let the process open as many files as there may be connections; or fewer connections, where it may not."""
    wanted = limits.connections + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most == wanted:
        return limits
    fewer = max(most - SPARE_FILES, most // 2)
    log.warning("at most %d connections, not %d: the system allows %d open files", fewer, limits.connections, hard)
    return limits._replace(connections=fewer)
