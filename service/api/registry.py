"""`/v1/models/{m}/aliases` and `…/compare`: which version answers, since when, and whether another is better."""

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Request
from fastapi.responses import JSONResponse
from pydantic import AwareDatetime, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from service import aliases, artifacts, comparison
from service.aliases import Condition
from service.api import objects, shapes
from service.api.context import Answer, BodySha256, OnceDep, Reading, Writing, require
from service.api.examples import ALIAS, ALIAS_MOVE, COMPARISON, answers, listed
from service.api.objects.values import Described, Json
from service.api.paging import Listing, PageDep, whole
from service.db.tables import AliasMove, Model, ModelVersion
from service.errors import Conflict, InvalidValue, NotFound
from service.layers import Strict
from service.spec import Name

router = APIRouter(prefix="/v1/models", tags=["models"], dependencies=[Depends(require("predict", "train"))])
moves = Depends(require("train"))
ALIAS_ANSWER = answers(ALIAS, kind=objects.Alias)
Alias = Annotated[Name, Path(description="such as production or staging")]


class Gate(Strict):
    """Refuses a version that is significantly worse: one-sided exact McNemar test on the same test pictures."""

    not_worse_than: str = Field(max_length=200, description="an alias of this model, or a reference as flowers:3")
    alpha: float = Field(0.05, gt=0, lt=1, description="worse is refused when its p-value is at most this")


class NewTarget(Strict):
    version: int = Field(ge=1, le=2**31, description="of this model")
    gate: Gate | None = None


def _condition(
    if_match: Annotated[str | None, Header(max_length=500, description="ETag of the alias's present state")] = None,
    if_none_match: Annotated[str | None, Header(max_length=500, description="* to create, never to move")] = None,
) -> Condition:
    return Condition(if_match, if_none_match)


ConditionDep = Annotated[Condition, Depends(_condition)]


@router.get("/compare", responses=answers(COMPARISON))
def compare(
    a: Annotated[str, Query(max_length=200, description="reference of the version in use")],
    b: Annotated[str, Query(max_length=200, description="reference of the candidate")],
    session: Reading,
) -> Annotated[Json, Described(objects.Comparison)]:
    """Paired exact McNemar test of b against a on their test split, and the pictures that changed answer.

    409 when the two were not evaluated on the same pictures.
    """
    return _comparison(artifacts.find_version(session, a), artifacts.find_version(session, b))


@router.get("/{model}/aliases", responses=listed(ALIAS))
def list_aliases(model: str, session: Reading) -> Listing[objects.Alias]:
    row = artifacts.find_model(session, model)
    return whole([shapes.alias(row.name, move) for move in aliases.all_current(session, row)])


@router.get("/{model}/aliases/{alias}", responses=ALIAS_ANSWER)
def show_alias(model: str, alias: Alias, session: Reading) -> JSONResponse:
    """Where the alias points. The ETag is what a move must send as If-Match."""
    row = artifacts.find_model(session, model)
    return _answer(row, aliases.find(session, row, alias)).response()


@router.put(
    "/{model}/aliases/{alias}",
    dependencies=[moves],
    responses=ALIAS_ANSWER | answers(ALIAS, 201, objects.Alias),
)
def put_alias(
    model: str, alias: Alias, body: NewTarget, condition: ConditionDep, session: Writing, request: Request
) -> JSONResponse:
    """Point the alias at a version, from the next request on. Moving one needs `If-Match`; creating one does not."""
    row = artifacts.find_model(session, model)
    before = aliases.current(session, row, alias)
    aliases.check(before, condition)
    if body.gate is not None:
        _pass(session, row, body.version, body.gate)
    move = aliases.put(session, row, alias, body.version, request.state.caller.key_id)
    return _answer(row, move, 200 if before else 201).response()


@router.post("/{model}/aliases/{alias}:rollback", dependencies=[moves], responses=ALIAS_ANSWER)
def roll_back(
    model: str,
    alias: Alias,
    condition: ConditionDep,
    session: Writing,
    once: OnceDep,
    body_sha256: BodySha256,
    request: Request,
) -> JSONResponse:
    """Back to the version before; again, to the one before that. With `If-Match`, only from the state it names."""
    row = artifacts.find_model(session, model)

    def make() -> Answer:
        if condition != Condition():
            aliases.check(aliases.current(session, row, alias), condition)
        return _answer(row, aliases.rollback(session, row, alias, request.state.caller.key_id))

    return once.do(session, body_sha256, make).response()


@router.get("/{model}/aliases/{alias}/history", responses=listed(ALIAS_MOVE))
def history(
    model: str,
    alias: Alias,
    session: Reading,
    page: PageDep,
    at: Annotated[AwareDatetime | None, Query(description="only the move in force at this time (RFC 3339)")] = None,
) -> Listing[objects.AliasMove]:
    """Every move, the newest first. Nothing is ever removed; `?at=` answers what the alias named then."""
    row = artifacts.find_model(session, model)
    aliases.find(session, row, alias)
    if at is not None:
        move = aliases.at(session, row, alias, at.timestamp())
        return whole([shapes.alias_move(move)] if move else [])
    mine = select(AliasMove).where(AliasMove.model_id == row.id, AliasMove.alias == alias)
    return page.read(session, mine, AliasMove.sequence, shapes.alias_move, newest_first=True)


def _answer(model: Model, move: AliasMove, status: int = 200) -> Answer:
    return Answer(status, shapes.alias(model.name, move), {"ETag": aliases.etag(move)})


def _pass(session: Session, model: Model, number: int, gate: Gate) -> None:
    """Raises Conflict (code `significantly_worse`), with the comparison, when the gate keeps the version out."""
    wanted = gate.not_worse_than
    ref = wanted if {":", "@"} & set(wanted) else f"{model.name}@{wanted}"
    candidate = artifacts.find_version(session, f"{model.name}:{number}")
    try:
        held_against = artifacts.find_version(session, ref)
    except NotFound as error:
        raise InvalidValue(error.code, error.detail, hint=error.hint, param="/gate/not_worse_than") from error
    found = _comparison(held_against, candidate)
    if found["p_worse"] <= gate.alpha:
        raise Conflict(
            "significantly_worse",
            f"version {number} answers {found['right_to_wrong']} pictures wrongly that {ref} answers rightly, and only "
            f"{found['wrong_to_right']} the other way round (p = {found['p_worse']:.2g})",
            hint="look at `comparison`; without the gate the alias moves all the same",
            param="/gate",
            more={"comparison": found},
        )


def _comparison(a: tuple[Model, ModelVersion], b: tuple[Model, ModelVersion]) -> Json:
    found = comparison.compare(a[1].answers, b[1].answers)
    return {"object": "comparison", "a": shapes.model_block(*a), "b": shapes.model_block(*b), **found}
