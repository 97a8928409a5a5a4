"""Page files for a pack whose folder has spaces or dots in its name.

ComfyUI serves them at /extensions/FOLDER/. But aiohttp compares the quoted name of a static folder with the unquoted
path of a request, so that nothing is found in one whose name must be quoted; and ComfyUI's page looks for the help of
a node below the folder's name up to its first dot. What ComfyUI itself does not find of ours is answered here.
"""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from . import http

_PACK = Path(__file__).parents[2].name
_PAGE = (Path(__file__).parents[1] / "page").resolve()
_TYPES = {".js": "text/javascript", ".css": "text/css", ".md": "text/markdown", ".png": "image/png"}


def page_file_routes() -> dict[tuple[str, str], http.Handler]:
    """(method, path) -> handler. ComfyUI's own folders are more exact paths, and are asked first."""
    return {("GET", "/extensions/{folder}/{file:.+}"): page_file}


async def page_file(request: web.Request) -> web.StreamResponse:
    """A file of our page, by the pack's name or what is left of it."""
    folder, name = request.match_info["folder"], request.match_info["file"]
    file = (_PAGE / name).resolve()
    ours = folder in (_PACK, _PACK.split(".")[0]) and file.is_relative_to(_PAGE)
    if not ours or file.suffix not in _TYPES or not file.is_file():
        return http.refusal(404, "there is no such file")
    return web.FileResponse(file, headers={"Content-Type": _TYPES[file.suffix], "Cache-Control": "no-cache"})
