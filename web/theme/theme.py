"""Theme of the studio: dark and quiet, so that the images are what one sees; and the redirect to dark or light."""

from __future__ import annotations

from pathlib import Path

from gradio.themes import Base
from gradio.themes.utils.colors import Color
from gradio.themes.utils.sizes import Size
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ..server.preferences_file import SettingsFile

CSS = [Path(__file__).with_name(name) for name in ("studio.css", "runs.css")]

# Pictures are judged against this grey: it leans to no colour.
_GREY = Color(
    "#fafafa", "#f1f1f2", "#e2e2e4", "#cfcfd3", "#a0a0a8", "#73737c",
    "#53535b", "#3b3b42", "#26262b", "#1a1a1e", "#131316",
)  # fmt: skip
_AMBER = Color(
    "#fff8ec", "#ffecca", "#fddb9c", "#f9c56b", "#f1b04a", "#e8a33d",
    "#c98522", "#a1671a", "#7c4f18", "#5c3b15", "#3a2610",
)  # fmt: skip
_SPACING = Size("1px", "2px", "4px", "6px", "8px", "12px", "18px", name="tight")
_RADIUS = Size("2px", "3px", "4px", "6px", "6px", "8px", "10px", name="small")
_TEXT = Size("10px", "11px", "12px", "14px", "16px", "20px", "26px", name="plain")


def studio_theme() -> Base:
    """Greys, one accent colour, tight spacing; fonts of the system, so that none is fetched."""
    theme = Base(
        primary_hue=_AMBER,
        secondary_hue=_AMBER,
        neutral_hue=_GREY,
        spacing_size=_SPACING,
        radius_size=_RADIUS,
        text_size=_TEXT,
        font=["system-ui", "-apple-system", "Segoe UI", "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
    )
    return theme.set(
        body_background_fill="*neutral_100",
        body_background_fill_dark="*neutral_950",
        background_fill_primary_dark="*neutral_900",
        background_fill_secondary_dark="*neutral_950",
        border_color_primary_dark="*neutral_800",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_border_width_dark="0px",
        block_shadow="none",
        block_padding="*spacing_md",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_label_border_width_dark="0px",
        block_title_text_color="*neutral_600",
        block_title_text_color_dark="*neutral_400",
        block_title_text_size="*text_sm",
        block_title_text_weight="500",
        block_info_text_size="*text_sm",
        panel_background_fill_dark="transparent",
        input_background_fill="white",
        input_background_fill_dark="*neutral_900",
        input_border_color_dark="*neutral_700",
        input_border_color_focus_dark="*primary_500",
        input_padding="7px 9px",
        button_primary_background_fill="*primary_500",
        button_primary_background_fill_dark="*primary_500",
        button_primary_background_fill_hover="*primary_400",
        button_primary_background_fill_hover_dark="*primary_400",
        button_primary_text_color="#17130b",
        button_primary_text_color_dark="#17130b",
        button_primary_border_color="transparent",
        button_primary_border_color_dark="transparent",
        button_secondary_background_fill="white",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_background_fill_hover_dark="*neutral_700",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_700",
        button_large_padding="9px 16px",
        button_large_text_size="*text_md",
        button_large_text_weight="600",
        button_medium_padding="6px 12px",
        button_small_padding="4px 9px",
        checkbox_background_color_selected_dark="*primary_500",
        checkbox_label_background_fill_dark="*neutral_900",
        checkbox_label_background_fill_selected_dark="*neutral_800",
        checkbox_label_border_color_selected_dark="*primary_500",
        checkbox_label_text_color_selected_dark="*neutral_50",
        slider_color="*primary_500",
        layout_gap="*spacing_xl",
        form_gap_width="0px",
    )


class ThemeRedirect:
    """ASGI middleware: opens the page dark or light as the settings say. Gradio only knows it from the address."""

    def __init__(self, app: ASGIApp, settings: SettingsFile) -> None:
        self.app = app
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_page = scope["type"] == "http" and scope["method"] == "GET" and scope["path"] == "/"
        if is_page and b"__theme=" not in scope["query_string"]:
            more = f"&{scope['query_string'].decode('latin-1')}" if scope["query_string"] else ""
            answer = RedirectResponse(
                f"/?__theme={self.settings.read().look}{more}", 307, {"Cache-Control": "no-store"}
            )
            return await answer(scope, receive, send)
        return await self.app(scope, receive, send)
