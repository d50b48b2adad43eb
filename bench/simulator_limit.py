"""What the simulator itself takes: ``python -m bench.simulator_limit URL CALLS [AT_ONCE]`` prints the seconds.

Bare sockets send a body that was made beforehand, eight at a time: next to nothing is done on this side.
"""

import asyncio
import sys
import time
from urllib.parse import urlsplit

import orjson


async def _send(host: str, port: int, request: bytes, calls: int) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    for _ in range(calls):
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if b"transfer-encoding: chunked" in head.lower():
            while size := int((await reader.readline()).strip(), 16):
                await reader.readexactly(size + 2)
            await reader.readline()
        else:
            length = head.lower().split(b"content-length:")[1].split(b"\r\n")[0]
            await reader.readexactly(int(length))
    writer.close()
    await writer.wait_closed()


async def measure(url: str, calls: int, at_once: int = 8) -> float:
    """Seconds for so many calls of 200 records."""
    parts = urlsplit(url)
    records = [
        {"attributes": {"type": "Account"}, "Icao__c": f"K{i:08d}", "Description": "x" * 500, "Elevation__c": i / 7}
        for i in range(200)
    ]
    body = orjson.dumps({"allOrNone": True, "records": records})
    head = f"PATCH /services/data/v66.0/composite/sobjects/Account/Icao__c HTTP/1.1\r\nHost: {parts.netloc}\r\n"
    request = f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    began = time.perf_counter()
    assert parts.hostname is not None
    assert parts.port is not None
    await asyncio.gather(*(_send(parts.hostname, parts.port, request, calls // at_once) for _ in range(at_once)))
    return time.perf_counter() - began


if __name__ == "__main__":
    print(asyncio.run(measure(sys.argv[1], *map(int, sys.argv[2:]))))
