"""Secrets that tests plant, and the look for them in all that the gateways of a test run show: logs, access and audit logs,
metrics, admin pages, and what `check` and `resolve` say.

Whatever a test makes up that is nobody's business begins with `MARKER`; what cannot (keys, tokens, what gateways seal) is
noted when it is made or seen. A leak fails the test in which a gateway ends.
"""

from __future__ import annotations

from pathlib import Path

MARKER = "planted-"
_MARKERS = (MARKER, "cGxhbnRlZC")
"""As it is, and in Base64."""

_SHORTEST = 12
"""Shorter texts may be anywhere."""

watching = False
"""Whether gateways write all logs, and are looked at when they end. Experiments measure, and do neither."""

_noted: set[str] = set()
_found: list[str] = []


def note(*secrets: str) -> None:
    """From now on no gateway may show these."""
    _noted.update(secret for secret in secrets if len(secret) >= _SHORTEST)


def note_token(token: str) -> str:
    """Notes the parts of a JSON Web Token, and returns it."""
    note(*token.split("."))
    return token


def note_key(pem: Path) -> None:
    """Notes the lines of a private key."""
    note(*(line for line in pem.read_text().splitlines() if "-----" not in line))


def look(what: str, text: str) -> None:
    """Looks for every secret in what a gateway showed."""
    for secret in (*_MARKERS, *_noted):
        if (at := text.find(secret)) >= 0:
            _found.append(f"{secret} is in {what}: …{text[max(at - 300, 0) : at + 200]}…")


def found() -> list[str]:
    """What was found since it was asked last."""
    taken = list(_found)
    _found.clear()
    return taken
