"""Routes of the judging element: its API over HTTP, and its own files."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import BaseModel, ValidationError
from starlette.staticfiles import StaticFiles

from ...trainer.config.validation import validation_sentence
from ...trainer.errors import UserError
from ...trainer.images.decode import decode_image
from ...trainer.preferences import api
from ...trainer.preferences.store import Store
from .errors import UNEXPECTED

log = logging.getLogger(__name__)

# Named by their content, pictures never change; but they are a person's own, so no cache on the way keeps them.
_FOR_EVER = {"Cache-Control": "private, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}


def judging_router(store: Store, annotator_of: Callable[[Request], str]) -> APIRouter:
    """The routes of the contract below /mapo/api. Errors are {"error": sentence} with a status of 4xx.

    They are plain functions, which FastAPI runs in threads: they wait for the database.
    """
    router = APIRouter(prefix="/mapo/api")

    def add_reading(name: str, model: type[BaseModel], function: Callable[..., BaseModel]) -> None:
        def read(request: Request) -> Response:
            return _reply(lambda: function(store, api.from_query(model, request.query_params), annotator_of(request)))

        router.add_api_route(f"/{name}", read, methods=["GET"], name=name)

    def add_writing(name: str, model: type[BaseModel], function: Callable[..., BaseModel]) -> None:
        def write(request: Request, body: Annotated[bytes, Depends(_body)]) -> Response:
            # A form of a foreign page can send text, but not say that it is JSON.
            if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
                return _error(415, "send this as application/json")
            return _reply(lambda: function(store, model.model_validate_json(body), annotator_of(request)))

        router.add_api_route(f"/{name}", write, methods=["POST"], name=name)

    for name, (model, function) in api.READ.items():
        add_reading(name, model, function)
    for name, (model, function) in api.WRITE.items():
        add_writing(name, model, function)

    @router.get("/picture/{sha256}")
    def picture(sha256: str) -> Response:
        return _picture(store, sha256)

    return router


class ElementFiles(StaticFiles):
    """The judging element's own files. A browser asks each time whether they changed: an upgrade shows at once."""

    def __init__(self) -> None:
        super().__init__(directory=Path(__file__).parents[1] / "judge", check_dir=False)

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


async def _body(request: Request) -> bytes:
    return await request.body()


def _reply(ask: Callable[[], BaseModel]) -> Response:
    try:
        return Response(ask().model_dump_json(), headers={"Cache-Control": "no-store"}, media_type="application/json")
    except ValidationError as error:
        return _error(422, validation_sentence(error, whole="the request"))
    except UserError as error:
        return _error(400, str(error))
    except Exception:
        log.exception("a request of the judging element failed")
        return _error(500, UNEXPECTED)


def _error(status: int, sentence: str) -> Response:
    return JSONResponse({"error": sentence}, status, {"Cache-Control": "no-store"})


def _picture(store: Store, sha256: str) -> Response:
    try:
        path = api.image_file(store, sha256)
        if path.suffix in api.IMAGE_TYPES:
            return FileResponse(path, media_type=api.IMAGE_TYPES[path.suffix], headers=_FOR_EVER)
        # A TIFF: no browser shows one.
        shown = io.BytesIO()
        decode_image(path.read_bytes(), path.name).save(shown, "PNG")
    except UserError as error:
        return _error(404, str(error))
    return Response(shown.getvalue(), media_type="image/png", headers=_FOR_EVER)
