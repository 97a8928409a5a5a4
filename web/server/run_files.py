"""Routes of a run's files: its images, its report and its LoRA."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

from fastapi import APIRouter
from fastapi.responses import FileResponse, JSONResponse, Response

from ...trainer.errors import UserError
from ...trainer.runs.run_folder import Run

_IMAGE = re.compile(r"(?:(?:base|newest)-\d{1,6}|step-\d{1,12})\.png")
# A report needs nothing but itself, so nothing else is allowed to it.
_ALONE = {
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox",
    "Cache-Control": "no-store",
}
_FRESH = {"Cache-Control": "no-cache"}


def run_files(workspace: Path) -> APIRouter:
    """/mapo/runs/NAME/ and one of report, lora and samples/FILE. Nothing else of a run is given out."""
    router = APIRouter(prefix="/mapo/runs")

    @router.get("/{name}/report")
    def report(name: str) -> Response:
        return _file(lambda: _run(workspace, name).report_file, "text/html", _ALONE)

    @router.get("/{name}/lora")
    def lora(name: str) -> Response:
        return _file(lambda: _run(workspace, name).lora_file, "application/octet-stream", _FRESH, download=True)

    @router.get("/{name}/samples/{file}")
    def sample(name: str, file: str) -> Response:
        if not _IMAGE.fullmatch(file):
            return _missing("there is no such picture")
        return _file(lambda: _run(workspace, name).samples_folder / file, "image/png", _FRESH)

    return router


def address(run: Run, what: str) -> str:
    """Where the page finds `what` of a run: "report", "lora" or "samples/FILE"."""
    return f"/mapo/runs/{quote(run.name)}/{what}"


def _run(workspace: Path, name: str) -> Run:
    # A name comes from the address: it must stay a name.
    if Path(name).name != name or name in (".", ".."):
        raise UserError("there is no such run")
    return Run.open(workspace, name)


def _file(locate, kind: str, headers: dict[str, str], download: bool = False) -> Response:
    try:
        path = locate()
    except UserError as error:
        return _missing(str(error))
    if not path.is_file():
        return _missing(f"there is no {path.name} yet")
    return FileResponse(path, media_type=kind, headers=headers, filename=path.name if download else None)


def _missing(sentence: str) -> Response:
    return JSONResponse({"error": sentence}, 404, _FRESH)
