"""A small typed client of the REST API. It imports nothing of the service: what it can do, anybody can."""

import tempfile
import uuid
import zipfile
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

Json = dict[str, Any]
PIECE_BYTES = 1024**2


class FoveaError(Exception):
    """An answer that was not 2xx: the fields of its problem+json."""

    def __init__(self, status: int, problem: Json) -> None:
        self.status = status
        self.code: str = problem.get("code") or "unknown"
        self.detail: str = problem.get("detail") or ""
        self.hint: str | None = problem.get("hint")
        self.param: str | None = problem.get("param")
        self.request_id: str | None = problem.get("request_id")
        hint = f" ({self.hint})" if self.hint else ""
        super().__init__(f"{self.code}: {self.detail}{hint}")


class Fovea:
    """One connection to a service. Use it as a context manager."""

    def __init__(self, url: str, api_key: str | None = None, timeout_seconds: float = 120.0) -> None:
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        try:
            self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_seconds)
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            raise _not_sendable(f"a key to {url!r}", error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, path: str, **params: Any) -> Json:
        answer: Json = self._ask("GET", path, params=params).json()
        return answer

    def rows(self, path: str, **params: Any) -> Iterator[Json]:
        """Every row of a list, page after page."""
        while True:
            page = self.get(path, **params)
            yield from page["data"]
            if not page["has_more"]:
                return
            params["after"] = page["next"]

    # --- data --------------------------------------------------------------------------------------------------------

    def push_dataset(self, source: Path, name: str, on_sent: Callable[[int, int], None] | None = None) -> Json:
        """Uploads a zip, or a folder as a zip. `on_sent(sent, total)` in bytes. A known name gets its next version."""
        if source.is_file():
            return self._push(source, name, on_sent)
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder) / "pictures.zip"
            _zip(source, archive)
            return self._push(archive, name, on_sent)

    def _push(self, archive: Path, name: str, on_sent: Callable[[int, int], None] | None) -> Json:
        known = any(row["name"] == name for row in self.rows("/v1/datasets"))
        path = f"/v1/datasets/{name}/versions" if known else "/v1/datasets"
        total = archive.stat().st_size
        headers = {"Content-Type": "application/zip", "Content-Length": str(total), **_once()}
        body = _pieces(archive, total, on_sent)
        answer: Json = self._ask(
            "POST", path, params={} if known else {"name": name}, content=body, headers=headers
        ).json()
        return answer

    def edit_dataset(self, name: str, number: int, changes: list[Json]) -> Json:
        """The next version: version `number` with other labels and splits, without some pictures.

        A change: `{"image": SHA-256, "action": "relabel", "label": "rose"}` (or `labels`), `"remove"`, or `"move"` with
        `split`.
        """
        path = f"/v1/datasets/{name}/versions/{number}:edit"
        version: Json = self._ask("POST", path, json={"changes": changes}, headers=_once()).json()
        return version

    def analyse(self, dataset: str, model: str | None = None, **more: Any) -> Json:
        """The job that looks for wrong labels; `more` may be `folds=5` and `seed=7`."""
        body = {"type": "analyse", "dataset": dataset, "model": model, **more}
        job: Json = self._ask("POST", "/v1/jobs", json=body, headers=_once()).json()
        return job

    def suspects(self, name: str, number: int, **filters: Any) -> Iterator[Json]:
        """What the newest analysis of a version doubts, the likeliest first; `filters`: `model`, `reason`, `limit`."""
        yield from self.rows(f"/v1/datasets/{name}/versions/{number}/suspects", **filters)

    # --- jobs --------------------------------------------------------------------------------------------------------

    def train(self, model: str, dataset: str, spec: Json | None = None, seed: int = 0, **more: Any) -> Json:
        """`more` may be `goal={"metric": "accuracy", "at_least": 0.95}` and `budget={"seconds": 900}`."""
        body = {"type": "train", "model": model, "dataset": dataset, "spec": spec or {}, "seed": seed, **more}
        job: Json = self._ask("POST", "/v1/jobs", json=body, headers=_once()).json()
        return job

    def search(self, model: str, dataset: str, space: Json, spec: Json | None = None, **more: Any) -> Json:
        """`space` by JSON pointer: `{"/optimizer/lr": {"log_uniform": [1e-4, 1e-1]}}`; `more` may be `trials=20`,
        `seed=7`, `metric="val/loss"` and `budget={"seconds": 600}`."""
        body = {"type": "search", "model": model, "dataset": dataset, "space": space, "spec": spec or {}, **more}
        job: Json = self._ask("POST", "/v1/jobs", json=body, headers=_once()).json()
        return job

    def trials(self, job_id: str) -> list[Json]:
        """The trials of a search, in their order."""
        return sorted(self.rows("/v1/jobs", parent=job_id, limit=1000), key=lambda row: row["trial"])

    def job(self, job_id: str, wait_seconds: float = 0) -> Json:
        return self.get(f"/v1/jobs/{job_id}", wait=wait_seconds)

    def act(self, job_id: str, action: str) -> Json:
        """`cancel`, `stop`, `pause`, `resume` or `reproduce`."""
        job: Json = self._ask("POST", f"/v1/jobs/{job_id}:{action}").json()
        return job

    def follow(self, job_id: str) -> Iterator[Json]:
        """The job each time it has changed, until it has ended."""
        job = self.job(job_id)
        yield job
        while not job["is_terminal"]:
            job = self.job(job_id, wait_seconds=20)
            yield job

    def wait(self, job_id: str) -> Json:
        """Holds until the job has ended; the job."""
        return deque(self.follow(job_id), maxlen=1).pop()

    def events(self, job_id: str, after: str | None = None) -> Iterator[Json]:
        yield from self.rows(f"/v1/jobs/{job_id}/events", limit=1000, **({"after": after} if after else {}))

    def log(self, job_id: str) -> str:
        return self._ask("GET", f"/v1/jobs/{job_id}/log").text

    # --- models ------------------------------------------------------------------------------------------------------

    def evaluation(self, ref: str) -> Json:
        return self.get(f"/v1/models/{ref}/evaluation")

    def evaluate(self, ref: str, dataset: str, split: str = "all") -> Json:
        """The job that asks a model version about a dataset's pictures; `split`: all, train, val or test."""
        body = {"type": "evaluate", "model": ref, "dataset": dataset, "split": split}
        job: Json = self._ask("POST", "/v1/jobs", json=body, headers=_once()).json()
        return job

    def bundle(self, ref: str) -> bytes:
        """The zip of a model version, made first if it must be."""
        path = f"/v1/models/{ref}/bundle"
        try:
            return self._ask("GET", path).content
        except FoveaError as error:
            if error.code != "bundle_not_found":
                raise
        job = self._ask("POST", "/v1/jobs", json={"type": "export", "model": ref}, headers=_once()).json()
        ended = self.wait(job["id"])
        if ended["status"] != "succeeded":
            raise FoveaError(0, ended["error"] or {"code": ended["status"], "detail": "the export was cancelled"})
        return self._ask("GET", path).content

    def quantise(self, ref: str, max_drop: float = 0.01, *, even_if_slower: bool = False) -> Json:
        """The export job that makes a version in eight bits, if its accuracy drops by no more than that."""
        int8 = {"max_drop": max_drop, "even_if_slower": even_if_slower}
        body = {"type": "export", "model": ref, "int8": int8}
        job: Json = self._ask("POST", "/v1/jobs", json=body, headers=_once()).json()
        return job

    def import_bundle(self, model: str, path: Path) -> Json:
        """The import_model job that makes a bundle the next version of a model."""
        with path.open("rb") as file:
            headers = {"Content-Type": "application/zip", **_once()}
            answer = self._ask("POST", f"/v1/models/{model}/versions:import", content=file, headers=headers)
        job: Json = answer.json()
        return job

    def classify(self, ref: str, *pictures: Path | bytes, top_k: int = 5, **more: Any) -> Json:
        """One picture goes as the raw body, several as multipart parts.

        More: `coverage`, `false_alarm`, `explain`, `store`.
        """
        named = [("picture", one) if isinstance(one, bytes) else (one.name, one.read_bytes()) for one in pictures]
        path, params = f"/v1/models/{ref}/classify", {"top_k": top_k, **more}
        if len(named) == 1:
            headers = {"Content-Type": "application/octet-stream"}
            answer = self._ask("POST", path, params=params, content=named[0][1], headers=headers)
        else:
            answer = self._ask("POST", path, params=params, files=[("file", one) for one in named])
        result: Json = answer.json()
        return result

    def aliases(self, model: str) -> list[Json]:
        return list(self.rows(f"/v1/models/{model}/aliases"))

    def set_alias(self, model: str, alias: str, version: int, not_worse_than: str | None = None) -> Json:
        """Points the alias at a version; fails when somebody moves it meanwhile.

        With `not_worse_than` (an alias or a reference), a version that is significantly worse is refused.
        """
        path = f"/v1/models/{model}/aliases/{alias}"
        known = {row["alias"]: row["etag"] for row in self.aliases(model)}
        headers = {"If-Match": known[alias]} if alias in known else {"If-None-Match": "*"}
        body: Json = {"version": version}
        if not_worse_than is not None:
            body["gate"] = {"not_worse_than": not_worse_than}
        answer: Json = self._ask("PUT", path, json=body, headers=headers).json()
        return answer

    def rollback(self, model: str, alias: str) -> Json:
        answer: Json = self._ask("POST", f"/v1/models/{model}/aliases/{alias}:rollback", headers=_once()).json()
        return answer

    def alias_history(self, model: str, alias: str, at: str | None = None) -> list[Json]:
        """Newest first; with `at` (RFC 3339), only the move in force at that time."""
        return list(self.rows(f"/v1/models/{model}/aliases/{alias}/history", **({"at": at} if at else {})))

    def set_shadow(self, model: str, alias: str, version: int, share: float) -> Json:
        """Lets the version see this share of what the alias is asked, without answering."""
        path, body = f"/v1/models/{model}/aliases/{alias}/shadow", {"version": version, "share": share}
        answer: Json = self._ask("PUT", path, json=body).json()
        return answer

    def shadow(self, model: str, alias: str) -> Json:
        return self.get(f"/v1/models/{model}/aliases/{alias}/shadow")

    def compare(self, a: str, b: str) -> Json:
        return self.get("/v1/models/compare", a=a, b=b)

    # --- kept predictions --------------------------------------------------------------------------------------------

    def replay(self, prediction: str) -> Json:
        found: Json = self._ask("POST", f"/v1/predictions/{prediction}:replay").json()
        return found

    def label(self, prediction: str, label: str | None, index: int | None = None) -> Json:
        """What the picture shows; None takes it back. `index` where the prediction has several."""
        body = {"label": label, "index": index}
        labelled: Json = self._ask("POST", f"/v1/predictions/{prediction}/label", json=body).json()
        return labelled

    def grow(self, dataset: str, **wanted: Any) -> Json:
        """The dataset's next version; `wanted` may be `take`, `mode`, `model` and `max_probability`."""
        path = f"/v1/datasets/{dataset}/versions:from_predictions"
        made: Json = self._ask("POST", path, json=wanted, headers=_once()).json()
        return made

    # --- keys --------------------------------------------------------------------------------------------------------

    def create_key(self, name: str, scopes: list[str]) -> Json:
        key: Json = self._ask("POST", "/v1/keys", json={"name": name, "scopes": scopes}).json()
        return key

    def sign_in_path(self) -> str:
        """What to open, behind the service's address, to sign a browser in with this key: once, within 15 minutes."""
        path: str = self._ask("POST", "/v1/session/links").json()["path"]
        return path

    def delete(self, path: str) -> None:
        self._ask("DELETE", path)

    def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **more)
        except httpx.TransportError as error:
            problem = {
                "code": "unreachable",
                "detail": f"nothing answers at {self._http.base_url}: {error}",
                "hint": "start it with `fovea up`, or set FOVEA_URL",
            }
            raise FoveaError(0, problem) from error
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            raise _not_sendable(f"{method} {path!r}", error) from error
        if answer.is_success:
            return answer
        is_problem = answer.headers.get("content-type", "").startswith("application/problem+json")
        raise FoveaError(answer.status_code, answer.json() if is_problem else {"detail": answer.text[:500]})


def _not_sendable(what: str, error: Exception) -> FoveaError:
    hint = "names are text without control characters, keys are ASCII"
    return FoveaError(0, {"code": "not_sendable", "detail": f"{what} cannot be sent: {error}", "hint": hint})


def _once() -> dict[str, str]:
    return {"Idempotency-Key": str(uuid.uuid4())}


def _zip(folder: Path, archive: Path) -> None:
    """Pictures are compressed already, so they are stored."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as target:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                target.write(path, path.relative_to(folder).as_posix())


def _pieces(archive: Path, total: int, on_sent: Callable[[int, int], None] | None) -> Iterator[bytes]:
    sent = 0
    with archive.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece
            sent += len(piece)
            if on_sent is not None:
                on_sent(sent, total)
