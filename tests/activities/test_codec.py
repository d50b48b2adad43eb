"""Payloads encrypted on request: keys from the environment, rotated by ID; the codec server shows them to some."""

import base64
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from google.protobuf import json_format
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.api.failure.v1 import Failure
from temporalio.exceptions import ApplicationError

from activities.codec import KEYS_VARIABLE, DecryptionError, data_converter, encryption
from control.codec_server import TOKEN_VARIABLE, build
from crm_export.errors import ConfigError
from crm_export.model import Refusal

OLD = f"2025:{base64.b64encode(b'o' * 32).decode()}"
NEW = f"2026:{base64.b64encode(b'n' * 32).decode()}"
REFUSAL = Refusal(code="STRING_TOO_LONG", message="the record KEY-001 is too long")
UI = "https://temporal.example.com"


def environ(*keys: str, **more: str) -> dict[str, str]:
    return {KEYS_VARIABLE: ",".join(keys), **more}


async def test_what_is_written_is_read_and_shows_nothing() -> None:
    converter = data_converter(environ(NEW))
    [payload] = await converter.encode([REFUSAL])
    assert b"KEY-001" not in payload.SerializeToString()
    assert payload.metadata["encryption-key-id"] == b"2026"
    assert await converter.decode([payload], [Refusal]) == [REFUSAL]
    # Two of the same are not the same: nobody learns that a value came back.
    assert (await converter.encode([REFUSAL]))[0].data != payload.data


async def test_a_failure_shows_its_code_alone() -> None:
    converter, failure = data_converter(environ(NEW)), Failure()
    await converter.encode_failure(ApplicationError("the record KEY-001 is too long", type="STRING_TOO_LONG"), failure)
    assert b"KEY-001" not in failure.SerializeToString()
    assert failure.application_failure_info.type == "STRING_TOO_LONG"
    error = await converter.decode_failure(failure)
    assert "KEY-001" in str(error)


async def test_keys_are_rotated_by_their_ids() -> None:
    [old] = await data_converter(environ(OLD)).encode([REFUSAL])
    both = data_converter(environ(NEW, OLD))
    assert await both.decode([old], [Refusal]) == [REFUSAL]
    assert (await both.encode([REFUSAL]))[0].metadata["encryption-key-id"] == b"2026"
    with pytest.raises(DecryptionError, match="the key '2025', which CRM_EXPORT_PAYLOAD_KEYS lacks"):
        await data_converter(environ(NEW)).decode([old], [Refusal])


async def test_what_was_changed_or_passed_off_is_not_read() -> None:
    codec = encryption(environ(NEW, OLD))
    assert codec is not None
    [payload] = await codec.encode([Payload(metadata={"encoding": b"json/plain"}, data=b'"x"')])
    changed = Payload(metadata=payload.metadata, data=payload.data[:-1] + bytes([payload.data[-1] ^ 1]))
    passed_off = Payload(metadata={**payload.metadata, "encryption-key-id": b"2025"}, data=payload.data)
    for wrong in (changed, passed_off, Payload(metadata=payload.metadata, data=b"short")):
        with pytest.raises(DecryptionError):
            await codec.decode([wrong])


async def test_what_was_written_before_stays_readable() -> None:
    [plain] = await data_converter({}).encode([REFUSAL])
    assert await data_converter(environ(NEW)).decode([plain], [Refusal]) == [REFUSAL]


@pytest.mark.parametrize(
    "wrong",
    ["abc", "id:", ":" + NEW.split(":")[1], "id:c2hvcnQ=", "id:not base64", f"{NEW},{NEW}", f"{NEW},,", f"{NEW},x:y"],
)
def test_keys_that_are_none_are_refused_and_not_told(wrong: str) -> None:
    with pytest.raises(ConfigError, match=KEYS_VARIABLE) as refused:
        encryption(environ(wrong))
    assert NEW.split(":")[1] not in str(refused.value)


def test_no_key_shows_in_a_repr() -> None:
    codec = encryption(environ(NEW))
    assert "nnnn" not in repr(codec) + repr(data_converter(environ(NEW)))


def client(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost:8888")


@pytest.fixture
async def server() -> AsyncIterator[httpx.AsyncClient]:
    async with client(build(environ(NEW), "127.0.0.1", UI)) as server:
        yield server


async def _encrypted() -> dict[str, Any]:
    payloads = await data_converter(environ(NEW)).encode([REFUSAL])
    return json_format.MessageToDict(Payloads(payloads=payloads))


async def test_the_codec_server_decrypts_and_encrypts(server: httpx.AsyncClient) -> None:
    sent = await _encrypted()
    shown = (await server.post("/decode", json=sent, headers={"X-Namespace": "default"})).json()
    assert b"KEY-001" in base64.b64decode(shown["payloads"][0]["data"])
    encrypted = (await server.post("/encode", json=shown)).json()
    assert encrypted != shown
    assert (await server.post("/decode", json=encrypted)).json() == shown


async def test_the_codec_server_lets_the_temporal_ui_ask_and_no_other_site(server: httpx.AsyncClient) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,x-namespace"}
    allowed = await server.options("/decode", headers={"Origin": UI, **asked})
    assert allowed.headers["access-control-allow-origin"] == UI
    other = await server.options("/decode", headers={"Origin": "https://evil.example.com", **asked})
    assert "access-control-allow-origin" not in other.headers
    rebound = await server.post("/decode", json=await _encrypted(), headers={"Host": "evil.example.com"})
    assert rebound.status_code == 400


@pytest.mark.parametrize("body", [b"", b"x", b'{"payloads": 3}', b"\xff\xfe"])
async def test_the_codec_server_refuses_nonsense(server: httpx.AsyncClient, body: bytes) -> None:
    assert (await server.post("/decode", content=body)).status_code == 400


async def test_elsewhere_than_here_the_codec_server_wants_a_token() -> None:
    with pytest.raises(ConfigError, match=f"0.0.0.0 is not this machine alone: set {TOKEN_VARIABLE}"):
        build(environ(NEW), "0.0.0.0", UI)
    async with client(build(environ(NEW, **{TOKEN_VARIABLE: "Token-123"}), "0.0.0.0", UI)) as server:
        sent = await _encrypted()
        assert (await server.post("/decode", json=sent)).status_code == 401
        assert (
            await server.post("/decode", json=sent, headers={"Authorization": "Bearer Token-12"})
        ).status_code == 401
        assert (
            await server.post("/decode", json=sent, headers={"Authorization": "Bearer Token-123"})
        ).status_code == 200


def test_without_keys_there_is_no_codec_server() -> None:
    with pytest.raises(ConfigError, match=f"{KEYS_VARIABLE} is not set"):
        build({}, "127.0.0.1", UI)
