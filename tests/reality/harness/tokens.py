"""JSON Web Tokens signed with the `openssl` command, and the key set that they are checked with."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

from .certificates import openssl
from .planted import note_key, note_token
from .processes import scratch_folder


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _part(value: object) -> str:
    return _encoded(json.dumps(value).encode())


class Issuer:
    """Issues tokens as a Kubernetes cluster does for its service accounts, with one RSA key."""

    url = "https://kubernetes.default.svc"
    audience = "nexus-gateway"

    def __init__(self, key_id: str = "k1") -> None:
        self._folder = scratch_folder("issuer")
        self._key_id, self._key = key_id, self._folder / "key.pem"
        openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", str(self._key))
        note_key(self._key)

    def key_set(self) -> Path:
        """A file with the public key (RFC 7517)."""
        modulus = openssl("rsa", "-in", str(self._key), "-noout", "-modulus").strip().partition("=")[2]
        key = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": self._key_id, "e": "AQAB"}
        file = self._folder / "jwks.json"
        file.write_text(json.dumps({"keys": [key | {"n": _encoded(bytes.fromhex(modulus))}]}))
        return file

    def service_account(self, namespace: str, name: str, **claims: Any) -> str:
        """A token as it is projected into a pod; `claims` stand in the place of its own."""
        return self._signed(self._claims(namespace, name) | claims)

    def expired(self, namespace: str, name: str) -> str:
        """One that has not held for ten minutes."""
        return self._signed(self._claims(namespace, name, lasts=-600))

    def unsigned(self, namespace: str, name: str) -> str:
        """One that asks to be believed for its own sake."""
        header = {"alg": "none", "typ": "JWT", "kid": self._key_id}
        return note_token(f"{_part(header)}.{_part(self._claims(namespace, name))}.")

    def _claims(self, namespace: str, name: str, lasts: int = 600) -> dict[str, Any]:
        now = int(time.time())
        return {
            "iss": self.url,
            "aud": [self.audience],
            "sub": f"system:serviceaccount:{namespace}:{name}",
            "iat": min(now, now + lasts) - 60,
            "exp": now + lasts,
            "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": name, "uid": "0"}},
        }

    def _signed(self, claims: dict[str, Any]) -> str:
        told = f"{_part({'alg': 'RS256', 'kid': self._key_id})}.{_part(claims)}"
        (self._folder / "told").write_text(told)
        signature = self._folder / "signature"
        openssl("dgst", "-sha256", "-sign", str(self._key), "-out", str(signature), str(self._folder / "told"))
        return note_token(f"{told}.{_encoded(signature.read_bytes())}")
