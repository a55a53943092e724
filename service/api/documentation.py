"""`/docs` and `/redoc`: interactive documentation of the API, from this service's files, with a policy of its own."""

import base64
import hashlib
import re

from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi_offline import FastAPIOffline

FILES = "/static-offline-docs"
OPENAPI = "/openapi.json"


def application(**options: object) -> FastAPI:
    """FastAPI with both pages. fastapi-offline, which has the files, would serve them without a policy."""
    app: FastAPI = FastAPIOffline(None, None, openapi_url=OPENAPI, static_url=FILES, **options)
    icon = f"{FILES}/favicon.png"
    swagger = get_swagger_ui_html(
        openapi_url=OPENAPI,
        title=f"{app.title}: API",
        swagger_js_url=f"{FILES}/swagger-ui-bundle.js",
        swagger_css_url=f"{FILES}/swagger-ui.css",
        swagger_favicon_url=icon,
    )
    redoc = get_redoc_html(
        openapi_url=OPENAPI,
        title=f"{app.title}: API",
        redoc_js_url=f"{FILES}/redoc.standalone.js",
        redoc_favicon_url=icon,
        with_google_fonts=False,
    )
    _serve(app, "/docs", bytes(swagger.body).decode())
    _serve(app, "/redoc", bytes(redoc.body).decode())
    return app


def _serve(app: FastAPI, path: str, html: str) -> None:
    headers = {"Content-Security-Policy": _policy(html)}

    async def show() -> HTMLResponse:
        return HTMLResponse(html, headers=headers)

    app.add_api_route(path, show, methods=["GET", "HEAD"], include_in_schema=False)


def _policy(html: str) -> str:
    """Allows the scripts that stand in the page by their hashes. Both viewers write styles as they go, and draw with
    pictures in data: and blob:; Redoc searches in a worker made of a blob."""
    hashes = [hashlib.sha256(text.encode()).digest() for text in re.findall(r"<script>(.*?)</script>", html, re.DOTALL)]
    scripts = [f"'sha256-{base64.b64encode(one).decode()}'" for one in hashes]
    return "; ".join(
        (
            "default-src 'none'",
            " ".join(("script-src 'self'", *scripts)),
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' blob: data:",
            "connect-src 'self'",
            "worker-src blob:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )
