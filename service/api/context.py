"""What a route needs from its surroundings: settings, database, the caller's key, the answer to a repeated request."""

import hashlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Header, Request
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session

from service import keys
from service.db import Database
from service.db.tables import ApiKey, IdempotentAnswer
from service.errors import Forbidden, InvalidValue, Unauthorized
from service.ids import now
from service.settings import Settings


def settings(request: Request) -> Settings:
    found = request.app.state.settings
    assert isinstance(found, Settings)
    return found


def database(request: Request) -> Database:
    found = request.app.state.database
    assert isinstance(found, Database)
    return found


SettingsDep = Annotated[Settings, Depends(settings)]
DatabaseDep = Annotated[Database, Depends(database)]


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


ANYBODY = Caller("", keys.SCOPES)


def require(*scopes: str) -> Callable[..., Caller]:
    """A dependency that lets in a key with one of these scopes, or `admin`. No scope named: any valid key."""

    def check(request: Request, db: DatabaseDep, config: SettingsDep) -> Caller:
        caller = ANYBODY if config.auth == "off" else _caller(request, db)
        if scopes and not {*scopes, "admin"} & set(caller.scopes):
            raise Forbidden(
                "scope_missing",
                f"this key has the scopes {', '.join(caller.scopes)}; one of {', '.join(scopes)} is needed",
                hint="`fovea keys create --scope …` makes another key",
            )
        request.state.caller = caller
        return caller

    return check


def _caller(request: Request, db: Database) -> Caller:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    with db.read() as session:
        row: ApiKey | None = keys.find(session, key.strip()) if scheme.lower() == "bearer" else None
    if row is None:
        raise Unauthorized(
            "unauthorized",
            "a valid API key is needed",
            hint="send 'Authorization: Bearer fov_…'; the first start keeps an admin key in <data>/admin.key",
            headers={"WWW-Authenticate": "Bearer"},
        )
    return Caller(row.id, tuple(row.scopes))


# --- doing a thing once ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    status: int
    body: dict[str, Any]
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
        if self.key is None:
            return make()
        wanted = hashlib.sha256(f"{self.request}\n{body_sha256}".encode()).hexdigest()
        if stored := session.get(IdempotentAnswer, (self.owner, self.key)):
            return _repeat(stored, wanted)
        answer = make()
        session.add(
            IdempotentAnswer(
                owner=self.owner,
                key=self.key,
                request_sha256=wanted,
                status=answer.status,
                body=answer.body,
                headers=answer.headers,
                created_at=now(),
            )
        )
        return answer


def _repeat(stored: IdempotentAnswer, wanted: str) -> Answer:
    if stored.request_sha256 != wanted:
        raise InvalidValue(
            "idempotency_key_reused",
            "this Idempotency-Key was used for a different request",
            hint="use a new key for every new request, the same only to repeat one",
            param="Idempotency-Key",
        )
    return Answer(stored.status, stored.body, stored.headers)


def _once(
    request: Request,
    idempotency_key: Annotated[str | None, Header(max_length=255, description="repeat a request safely")] = None,
) -> Once:
    asked = f"{request.method} {request.url.path}?{request.url.query}"
    return Once(request.state.caller.key_id, idempotency_key, asked)


OnceDep = Annotated[Once, Depends(_once)]


async def _body_sha256(request: Request) -> str:
    body: Callable[[], Awaitable[bytes]] = request.body
    return hashlib.sha256(await body()).hexdigest()


BodySha256 = Annotated[str, Depends(_body_sha256)]
