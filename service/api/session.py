"""`/v1/session`: the page signs in with a key or a one-time code, and holds a cookie instead of the key."""

from typing import Annotated, Self

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field, model_validator

from service import keys, sessions
from service.api import objects
from service.api.context import COOKIE, Caller, SettingsDep, Writing, refuse_other_sites, require
from service.api.examples import SESSION, SIGN_IN_LINK, answers
from service.errors import Conflict, Unauthorized
from service.ids import now, rfc3339
from service.layers import Strict

router = APIRouter(prefix="/v1/session", tags=["session"])
Text = Annotated[str, Field(min_length=1, max_length=200)]


class SignIn(Strict):
    """One of the two."""

    key: Text | None = Field(None, description="an API key")
    code: Text | None = Field(None, description="the code of a sign-in link; it works once")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.key is None) == (self.code is None):
            raise ValueError("give either `key` or `code`")
        return self


@router.post(
    "", status_code=201, dependencies=[Depends(refuse_other_sites)], responses=answers(SESSION, 201, objects.Session)
)
def sign_in(body: SignIn, session: Writing, request: Request) -> JSONResponse:
    """Sets an HttpOnly, SameSite=Strict cookie that stands for the key. Requests with it must come from the page."""
    row = keys.find(session, body.key.strip()) if body.key else sessions.redeem(session, body.code or "")
    if row is None:
        what = "this key is not valid" if body.key else "this sign-in link was used already, or has expired"
        raise Unauthorized(
            "sign_in_refused",
            what,
            hint="`fovea link` prints a new link; the admin key is in <data>/admin.key",
        )
    token = sessions.open_session(session, row.id)
    answer = JSONResponse(_shape(Caller(row.id, tuple(row.scopes), now() + sessions.SESSION_SECONDS), "on"), 201)
    answer.set_cookie(
        COOKIE,
        token,
        max_age=sessions.SESSION_SECONDS,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer


@router.get("", responses=answers(SESSION))
def show(caller: Annotated[Caller, Depends(require())], settings: SettingsDep) -> objects.Session:
    """What the caller may do; `auth: off` when nobody needs to sign in."""
    return _shape(caller, settings.auth)


@router.delete("", status_code=204, dependencies=[Depends(require())])
def sign_out(request: Request, session: Writing) -> Response:
    """Ends the session of the cookie."""
    sessions.close(session, request.cookies.get(COOKIE, ""))
    answer = Response(status_code=204)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer


@router.post("/links", status_code=201, responses=answers(SIGN_IN_LINK, 201))
def make_link(
    caller: Annotated[Caller, Depends(require())], session: Writing, settings: SettingsDep
) -> objects.SignInLink:
    """A link that signs a browser in with the caller's key: once, within 15 minutes. Put the page's address before it.

    The code is in the fragment, which no browser sends to a server, so it stays out of logs.
    """
    if settings.auth == "off":
        raise Conflict("auth_off", "nobody needs to sign in here", hint="open the page")
    code = sessions.make_code(session, caller.key_id)
    expires = rfc3339(now() + sessions.CODE_SECONDS)
    return {"object": "sign_in_link", "code": code, "path": f"/#code={code}", "expires_at": expires}


def _shape(caller: Caller, auth: str) -> objects.Session:
    expires = rfc3339(caller.expires_at)
    return {"object": "session", "auth": auth, "scopes": list(caller.scopes), "expires_at": expires}
