"""What a route needs from its surroundings: settings, database, the caller's key, the answer to a repeated request."""

import hashlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, Header, Request, Security
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from sqlalchemy import String, cast, delete
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from service import keys, sessions
from service.api.closing import Closing
from service.api.remembered import Remembered
from service.db import Database
from service.db.tables import IdempotentAnswer
from service.errors import Forbidden, InvalidValue, Misdirected, Unauthorized
from service.ids import now
from service.settings import Settings, is_loopback


async def settings(request: Request) -> Settings:
    found = request.app.state.settings
    assert isinstance(found, Settings)
    return found


async def database(request: Request) -> Database:
    found = request.app.state.database
    assert isinstance(found, Database)
    return found


async def closing(request: Request) -> Closing:
    found = request.app.state.closing
    assert isinstance(found, Closing)
    return found


SettingsDep = Annotated[Settings, Depends(settings)]
DatabaseDep = Annotated[Database, Depends(database)]
ClosingDep = Annotated[Closing, Depends(closing)]


def _reading(db: DatabaseDep) -> Iterator[Session]:
    with db.read() as session:
        yield session


def _writing(db: DatabaseDep) -> Iterator[Session]:
    with db.write() as session:
        yield session


# scope="function": the transaction is committed before the answer leaves, so that a 2xx is a promise
Reading = Annotated[Session, Depends(_reading, scope="function")]
Writing = Annotated[Session, Depends(_writing, scope="function")]


# --- who asks --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Caller:
    key_id: str
    scopes: tuple[str, ...]
    expires_at: float | None = None  # of the page's session


BEARER = HTTPBearer(scheme_name="key", description="An API key: fov_…", auto_error=False)
ANYBODY = Caller("", keys.SCOPES)
COOKIE = "fovea_session"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


def require(*scopes: str) -> Callable[..., Awaitable[Caller]]:
    """A dependency that lets in a key with one of these scopes, or `admin`. No scope named: any valid key."""

    async def check(request: Request, _documented: Annotated[Any, Security(BEARER)]) -> Caller:
        return await identify(request, scopes)

    return check


async def identify(request: Request, scopes: Sequence[str]) -> Caller:
    """Who asks, who must have one of these scopes. Raises Unauthorized or Forbidden."""
    request.app.state.remembered.look()
    off = request.app.state.settings.auth == "off"
    caller = _anybody(request) if off else await _caller(request)
    if scopes and not {*scopes, "admin"} & set(caller.scopes):
        raise Forbidden(
            "scope_missing",
            f"this key has the scopes {', '.join(caller.scopes)}; one of {', '.join(scopes)} is needed",
            hint="`fovea keys create --scope …` makes another key",
        )
    request.state.caller = caller
    return caller


def _anybody(request: Request) -> Caller:
    _refuse_other_names(request)
    refuse_other_sites(request)
    return ANYBODY


async def _caller(request: Request) -> Caller:
    """The owner of the key in `Authorization`, or, without that header, of the page's session cookie."""
    header = request.headers.get("authorization")
    if header is None:
        found = await run_in_threadpool(_by_cookie, request, request.app.state.database)
    else:
        found = await _by_key(header, request.app.state.remembered)
    if found is None:
        raise Unauthorized(
            "unauthorized",
            "a valid API key is needed",
            hint="send 'Authorization: Bearer fov_…'; the first start keeps an admin key in <data>/admin.key",
            headers={"WWW-Authenticate": "Bearer"},
        )
    return found


async def _by_key(header: str, remembered: Remembered) -> Caller | None:
    scheme, _, key = header.partition(" ")
    key = key.strip()

    def read(session: Session) -> Caller | None:
        row = keys.find(session, key)
        return Caller(row.id, tuple(row.scopes)) if row else None

    return await remembered.get(("caller", keys.digest(key)), read) if scheme.lower() == "bearer" else None


def _by_cookie(request: Request, db: Database) -> Caller | None:
    token = request.cookies.get(COOKIE)
    if token is None:
        return None
    with db.read() as session:
        found = sessions.find(session, token)
        if found is None:
            return None
        opened, key = found
        caller = Caller(key.id, tuple(key.scopes), opened.expires_at)
    if request.method not in SAFE_METHODS and not _same_origin(request):
        raise _cross_site()
    return caller


def _refuse_other_names(request: Request) -> None:
    """Where nobody proves who asks: a page of another site whose name was made to lead here (DNS rebinding)."""
    try:
        name = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:
        name = ""
    if not is_loopback(name):
        raise Misdirected(
            "foreign_host",
            f"this service, which asks nobody for a key, is not {name[:200]!r}",
            hint="call it by localhost or 127.0.0.1; a service with keys (FOVEA_AUTH=on) answers to any name",
        )


def refuse_other_sites(request: Request) -> None:
    """Where no key proves who asks: refuses what a browser says comes from another site. Programs say nothing."""
    tells = {"sec-fetch-site", "origin"} & set(request.headers)
    if request.method not in SAFE_METHODS and tells and not _same_origin(request):
        raise _cross_site()


def _same_origin(request: Request) -> bool:
    """What the browser itself says; neither header can be set by a script of another site."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    _, slashes, origin = request.headers.get("origin", "").partition("://")
    return bool(slashes) and origin == request.headers.get("host")


def _cross_site() -> Forbidden:
    return Forbidden(
        "cross_site",
        "a request that changes something must come from the page itself",
        hint="use the page of this service, or send an API key in the Authorization header",
    )


# --- doing a thing once ----------------------------------------------------------------------------------------------


REPEATED_SECONDS = 86_400  # for which a request may be repeated


@dataclass(frozen=True)
class Answer:
    status: int
    body: Mapping[str, Any]
    headers: dict[str, str] = field(default_factory=dict)

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, self.status, self.headers)


@dataclass(frozen=True)
class Once:
    """Gives a repeated request the answer of the first (Idempotency-Key, draft-ietf-httpapi-idempotency-key-header)."""

    owner: str
    key: str | None
    request: str  # method and path with query

    def do(self, session: Session, body_sha256: str, make: Callable[[], Answer]) -> Answer:
        """The stored answer, or `make()`, stored in the same transaction as what it created."""
        if stored := self.stored(session, body_sha256):
            return stored
        answer = make()
        self.keep(session, body_sha256, answer)
        return answer

    def keep(self, session: Session, body_sha256: str, answer: Answer) -> None:
        if self.key is None:
            return
        session.add(
            IdempotentAnswer(
                owner=self.owner,
                key=self.key,
                request_sha256=self._sha256(body_sha256),
                status=answer.status,
                body={**answer.body},
                headers=answer.headers,
                created_at=now(),
            )
        )

    def stored(self, session: Session, body_sha256: str) -> Answer | None:
        """What this request was answered before. Raises InvalidValue when its key was used for another."""
        found = session.get(IdempotentAnswer, (self.owner, self.key)) if self.key is not None else None
        return _repeat(found, self._sha256(body_sha256)) if found else None

    @staticmethod
    def forget_old(db: Database) -> None:
        """Answers to requests that nobody repeats any more."""
        with db.write() as session:
            old = IdempotentAnswer.created_at < now() - REPEATED_SECONDS
            session.execute(delete(IdempotentAnswer).where(old))

    @staticmethod
    def forget(session: Session, object_id: str) -> None:
        """Answers that tell of an object which is removed; their requests would be new ones."""
        telling = cast(IdempotentAnswer.body, String).contains(object_id)
        session.execute(delete(IdempotentAnswer).where(telling))

    def _sha256(self, body_sha256: str) -> str:
        return hashlib.sha256(f"{self.request}\n{body_sha256}".encode()).hexdigest()


def _repeat(stored: IdempotentAnswer, wanted: str) -> Answer:
    if stored.request_sha256 != wanted:
        raise InvalidValue(
            "idempotency_key_reused",
            "this Idempotency-Key was used for a different request",
            hint="use a new key for every new request, the same only to repeat one",
            param="Idempotency-Key",
        )
    return Answer(stored.status, stored.body, stored.headers)


LONGEST_KEY = 255  # characters
IdempotencyKey = Annotated[str | None, Header(max_length=LONGEST_KEY, description="repeat a request safely")]


def once_of(request: Request, owner: str, key: str | None) -> Once:
    """Raises InvalidValue where the framework has not looked at the header."""
    if key is not None and len(key) > LONGEST_KEY:
        raise InvalidValue(
            "invalid_value", f"Idempotency-Key is longer than {LONGEST_KEY} characters", param="Idempotency-Key"
        )
    return Once(owner, key, f"{request.method} {request.url.path}?{request.url.query}")


async def _once(request: Request, idempotency_key: IdempotencyKey = None) -> Once:
    return once_of(request, request.state.caller.key_id, idempotency_key)


OnceDep = Annotated[Once, Depends(_once)]


async def _body_sha256(request: Request) -> str:
    body: Callable[[], Awaitable[bytes]] = request.body
    return hashlib.sha256(await body()).hexdigest()


BodySha256 = Annotated[str, Depends(_body_sha256)]
