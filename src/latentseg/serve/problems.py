"""Errors as HTTP answers: a status, and the same sentence that the command line prints."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from latentseg.errors import InputError, LatentsegError, MemoryLimitError, ModelError, UsageError, explained
from latentseg.serve.jobs import as_row
from latentseg.serve.missing import NotHere

log = logging.getLogger(__name__)
STATUS: tuple[tuple[type[LatentsegError], int], ...] = (
    (NotHere, 404),
    (UsageError, 400),
    (InputError, 400),
    (ModelError, 503),
    (MemoryLimitError, 507),
)
WORDS = {401: "no token", 403: "not allowed", 404: "no such address", 405: "no such method", 413: "too large"}


class Problem(BaseModel):
    """Why a request was refused."""

    code: str = Field(description="Stable identifier, see the reference of errors.", examples=["E300"])
    what: str = Field(description="What was seen.", examples=["no such scan in this project"])
    where: str = Field(description="Where it was seen.", examples=["3f2a91c04b7d"])
    fix: str = Field(description="What to do about it.", examples=["reload the page"])
    sentence: str = Field(
        description="All of it in one sentence.",
        examples=["E300 no such scan in this project: 3f2a91c04b7d. Reload the page."],
    )


ANSWERS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": text}
    for status, text in {
        400: "Something in the request cannot be used.",
        401: "The token is missing or wrong.",
        403: "The request comes from another page, or for another host.",
        404: "There is no such thing in this project.",
        413: "The body is too large.",
        422: "The request is not what the interface describes.",
        503: "The model cannot be loaded.",
    }.items()
}


def problem(status: int, what: str, *, fix: str = "", where: str = "") -> JSONResponse:
    """An answer that refuses."""
    row = as_row(InputError(what, fix=fix, where=where))
    return JSONResponse(row, status, headers={"WWW-Authenticate": "Bearer"} if status == 401 else None)


def install(app: FastAPI) -> None:
    """Make every error of an application an answer of one shape."""

    @app.exception_handler(LatentsegError)
    async def _ours(_: Request, error: LatentsegError) -> JSONResponse:
        status = next((code for kind, code in STATUS if isinstance(error, kind)), 500)
        return JSONResponse(as_row(error), status)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return problem(422, str(first["msg"]), where=where, fix="see /api/openapi.json for what is expected")

    @app.exception_handler(HTTPException)
    async def _http(_: Request, error: HTTPException) -> JSONResponse:
        what = WORDS.get(error.status_code, str(error.detail))
        answer = problem(error.status_code, what, fix="see /api/openapi.json")
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    async def _unexpected(_: Request, error: Exception) -> JSONResponse:
        own = explained(error)
        log.error("%s", own, exc_info=error)
        status = next((code for kind, code in STATUS if isinstance(own, kind)), 500)
        return JSONResponse(as_row(own), status)
