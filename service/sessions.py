"""Sign-in of the web page: one-time codes that open a session, and sessions that stand for an API key in a cookie.

Both are 256 random bits of which only the SHA-256 is stored. A session ends with its key, with its time, or by signing
out, whichever comes first. It knows no HTTP.
"""

import hashlib
import secrets

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from service.db.tables import ApiKey, WebSession
from service.ids import now

CODE_SECONDS = 15 * 60
SESSION_SECONDS = 14 * 86400


def make_code(session: Session, key_id: str) -> str:
    """A code that signs in with this key: once, within 15 minutes."""
    return _make(session, key_id, "code", CODE_SECONDS)


def redeem(session: Session, code: str) -> ApiKey | None:
    """The key that the code signs in with. The code is used up, also when two ask at once: one statement removes it."""
    used = session.scalar(
        delete(WebSession)
        .where(WebSession.sha256 == _sha256(code), WebSession.kind == "code", WebSession.expires_at > now())
        .returning(WebSession.key_id)
    )
    key = session.get(ApiKey, used) if used else None
    return key if key and key.revoked_at is None else None


def open_session(session: Session, key_id: str) -> str:
    """A new session of this key; its token, which nobody can read again. Sweeps what has expired."""
    session.execute(delete(WebSession).where(WebSession.expires_at <= now()))
    return _make(session, key_id, "session", SESSION_SECONDS)


def find(session: Session, token: str) -> tuple[WebSession, ApiKey] | None:
    """The open session with this token and its key, unless the key was revoked."""
    query = (
        select(WebSession, ApiKey)
        .join(ApiKey, ApiKey.id == WebSession.key_id)
        .where(
            WebSession.sha256 == _sha256(token),
            WebSession.kind == "session",
            WebSession.expires_at > now(),
            ApiKey.revoked_at.is_(None),
        )
    )
    row = session.execute(query).first()
    return (row[0], row[1]) if row else None


def close(session: Session, token: str) -> None:
    session.execute(delete(WebSession).where(WebSession.sha256 == _sha256(token)))


def _make(session: Session, key_id: str, kind: str, seconds: float) -> str:
    token = secrets.token_urlsafe(32)
    row = WebSession(sha256=_sha256(token), key_id=key_id, kind=kind, created_at=now(), expires_at=now() + seconds)
    session.add(row)
    session.flush()
    return token


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
