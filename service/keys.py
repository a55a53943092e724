"""API keys: 256 random bits with a readable prefix. Only the SHA-256 is stored; the key is shown once."""

import hashlib
import logging
import os
import secrets
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.db import Database
from service.db.tables import ApiKey
from service.errors import NotFound
from service.ids import new_id, now
from service.settings import Settings

log = logging.getLogger("fovea")

SCOPES = ("predict", "data", "train", "admin")


def create(session: Session, name: str, scopes: list[str], key: str | None = None) -> tuple[ApiKey, str]:
    """A new key and its text, which nobody can read again."""
    key = key or f"fov_{secrets.token_urlsafe(32)}"
    row = ApiKey(id=new_id("key"), name=name, prefix=key[:8], sha256=digest(key), scopes=list(scopes), created_at=now())
    session.add(row)
    session.flush()
    return row, key


def find(session: Session, key: str) -> ApiKey | None:
    """The valid key with this text. The look-up is by hash, so its time tells nothing about stored keys."""
    return session.scalar(select(ApiKey).where(ApiKey.sha256 == digest(key), ApiKey.revoked_at.is_(None)))


def revoke(session: Session, key_id: str) -> None:
    row = session.get(ApiKey, key_id)
    if row is None:
        raise NotFound("key_not_found", f"there is no key {key_id}", hint="GET /v1/keys lists them")
    row.revoked_at = row.revoked_at or now()


def ensure_admin(database: Database, settings: Settings) -> bool:
    """Makes the admin key exist: FOVEA_ADMIN_KEY, else the one kept in `<data>/admin.key`. True if it was made now.

    One in the file that was revoked is replaced; FOVEA_ADMIN_KEY is the operator's, who is told.
    """
    wanted = _admin_text(settings)
    with database.write() as session:
        known = session.scalar(select(ApiKey).where(ApiKey.sha256 == digest(wanted))) if wanted else None
        if known and known.revoked_at is None:
            return False
        if known and settings.admin_key:
            log.warning("the key in FOVEA_ADMIN_KEY was revoked and opens nothing: set another, or unset it")
            return False
        _, key = create(session, "admin", ["admin"], None if known else wanted)
        if not settings.admin_key:
            _write_private(settings.admin_key_file, key)
    return True


def admin(session: Session, settings: Settings) -> ApiKey | None:
    """The row of the admin key, once `ensure_admin` has run; None when it was revoked."""
    text = _admin_text(settings)
    return find(session, text) if text else None


def _admin_text(settings: Settings) -> str | None:
    kept = settings.admin_key_file.read_text().strip() if settings.admin_key_file.exists() else None
    return settings.admin_key or kept


def _write_private(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def digest(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()
