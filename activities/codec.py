"""Encryption of what Temporal keeps: arguments, results, memos, summaries, and the texts of failures.

On request: with ``CRM_EXPORT_PAYLOAD_KEYS`` set, everything that a worker, the command line or the console hands to
Temporal is AES-256-GCM. Search attributes cannot be: the server looks into them; they hold no more than names, a state
and an error code. What was written before, or by a bare ``temporal workflow signal``, stays readable.
"""

import base64
import binascii
import dataclasses
import os
from collections.abc import Mapping, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from temporalio.api.common.v1 import Payload
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import DataConverter, DefaultFailureConverterWithEncodedAttributes, PayloadCodec

from crm_export.errors import ConfigError, CrmExportError

KEYS_VARIABLE = "CRM_EXPORT_PAYLOAD_KEYS"
_ENCODING = b"binary/encrypted"
_KEY_ID = "encryption-key-id"
_KEY_BYTES = 32
_NONCE_BYTES = 12


class DecryptionError(CrmExportError):
    """A payload cannot be read with the keys at hand; the message names the key that is missing."""


class Encryption(PayloadCodec):
    """Encrypts with the first of its keys, and reads with each: a new key is put in front, and the old ones stay until
    nothing that they wrote is left."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        """``keys`` by their IDs, which are no secret: each payload names the one that it was written with."""
        self._keys = {key_id: AESGCM(key) for key_id, key in keys.items()}
        self._newest = next(iter(keys))

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [self._encrypted(payload) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [
            self._decrypted(payload) if payload.metadata.get("encoding") == _ENCODING else payload
            for payload in payloads
        ]

    def _encrypted(self, payload: Payload) -> Payload:
        nonce, key_id = os.urandom(_NONCE_BYTES), self._newest
        # The key's ID is authenticated, so that nobody can pass a payload off as another key's.
        sealed = self._keys[key_id].encrypt(nonce, payload.SerializeToString(), key_id.encode())
        return Payload(metadata={"encoding": _ENCODING, _KEY_ID: key_id.encode()}, data=nonce + sealed)

    def _decrypted(self, payload: Payload) -> Payload:
        key_id = payload.metadata.get(_KEY_ID, b"").decode(errors="replace")
        if key_id not in self._keys:
            raise DecryptionError(f"a payload was written with the key {key_id!r}, which {KEYS_VARIABLE} lacks: add it")
        nonce, sealed = payload.data[:_NONCE_BYTES], payload.data[_NONCE_BYTES:]
        try:
            return Payload.FromString(self._keys[key_id].decrypt(nonce, sealed, key_id.encode()))
        except (InvalidTag, ValueError):
            raise DecryptionError(f"a payload was not written with this key {key_id!r}, or was changed since") from None


def encryption(environ: Mapping[str, str]) -> Encryption | None:
    """The codec that ``CRM_EXPORT_PAYLOAD_KEYS`` asks for: ``ID:KEY``, several with commas, the newest first, each KEY
    32 bytes in base64; None without. Raises ConfigError, which never holds a key."""
    text = environ.get(KEYS_VARIABLE, "").strip()
    if not text:
        return None
    keys: dict[str, bytes] = {}
    for number, part in enumerate(text.split(","), 1):
        key_id, colon, encoded = part.strip().partition(":")
        try:
            key = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            key = b""
        if not (key_id and colon) or len(key) != _KEY_BYTES:
            raise ConfigError(
                f"{KEYS_VARIABLE}: key {number} is not ID:KEY with {_KEY_BYTES} bytes in base64: "
                "openssl rand -base64 32 makes one"
            )
        if key_id in keys:
            raise ConfigError(f"{KEYS_VARIABLE}: the key ID {key_id} is there twice")
        keys[key_id] = key
    return Encryption(keys)


def data_converter(environ: Mapping[str, str]) -> DataConverter:
    """How everything crosses to Temporal and back: pydantic's JSON, encrypted where that is asked for."""
    codec = encryption(environ)
    if codec is None:
        return pydantic_data_converter
    return dataclasses.replace(
        pydantic_data_converter,
        payload_codec=codec,
        failure_converter_class=DefaultFailureConverterWithEncodedAttributes,
    )
