"""Who may ask, how the service is, and what went wrong."""

from typing import Annotated, Literal

from typing_extensions import TypedDict

from service.api.objects.values import Time, one_of

Scope = Annotated[str, one_of(("predict", "data", "train", "admin"))]


class ApiKey(TypedDict):
    object: Literal["api_key"]
    id: str
    name: str
    prefix: str
    scopes: list[Scope]
    created_at: Time
    revoked_at: Time | None


class ShownKey(ApiKey):
    """`key` is told this once."""

    key: str


class Session(TypedDict):
    object: Literal["session"]
    auth: Annotated[str, one_of(("on", "off"))]
    scopes: list[Scope]
    expires_at: Time | None


class SignInLink(TypedDict):
    """`path` is to be opened once, behind the page's address."""

    object: Literal["sign_in_link"]
    code: str
    path: str
    expires_at: Time


class Ready(TypedDict):
    ready: bool
    checks: dict[str, str]


class Info(TypedDict):
    """`storage` is in bytes."""

    version: str
    database: str
    device: str
    limits: dict[str, int]
    storage: dict[str, int]


class Problem(TypedDict):
    """What is wrong, where, and what to do (RFC 9457). Some codes add fields of their own."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    param: str | None
    hint: str | None
    request_id: str
