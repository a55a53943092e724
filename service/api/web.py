"""The page: static files under `service/web`, read once, served with a strict policy and checked by ETag."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response

from service.errors import NotFound

FOLDER = Path(__file__).parents[1] / "web"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)


@dataclass(frozen=True)
class File:
    body: bytes
    media_type: str
    etag: str


def router() -> APIRouter:
    """Serves what lies in the folder now; a path is looked up among these files, never on the disk."""
    files = {path.relative_to(FOLDER).as_posix(): _read(path) for path in FOLDER.rglob("*") if path.suffix in TYPES}
    routes = APIRouter(include_in_schema=False)

    async def page(request: Request) -> Response:
        return _answer(request, files["index.html"])

    async def static(request: Request, name: str) -> Response:
        if name not in files:
            raise NotFound("not_found", f"the page has no file {name!r}", hint="GET / is the page")
        return _answer(request, files[name])

    routes.add_api_route("/", page, methods=["GET", "HEAD"])
    routes.add_api_route("/static/{name:path}", static, methods=["GET", "HEAD"])
    return routes


def _read(path: Path) -> File:
    body = path.read_bytes()
    return File(body, TYPES[path.suffix], f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def _answer(request: Request, file: File) -> Response:
    """`no-cache` means: ask every time whether it changed; the answer is mostly an empty 304."""
    headers = {"ETag": file.etag, "Cache-Control": "no-cache", "Content-Security-Policy": POLICY}
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(file.body, media_type=file.media_type, headers=headers)
