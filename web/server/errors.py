"""Errors of event handlers: a sentence on the page; what a person cannot mend goes to the log, with its traceback."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

import gradio as gr

from ...trainer.errors import UserError
from ...trainer.reports.html import escape_text

log = logging.getLogger(__name__)

Handler = TypeVar("Handler", bound=Callable[..., Any])

UNEXPECTED = "That did not work, for a reason of the studio's own. The terminal it was started in says more."


def show_errors(handler: Handler) -> Handler:
    """A Gradio event handler (plain or generator) that shows a UserError's sentence, and UNEXPECTED for other errors.

    Its signature stays, so Gradio still fills in gr.Request and gr.Progress.
    """
    if inspect.isgeneratorfunction(handler):

        @wraps(handler)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            with _as_gradio_errors():
                yield from handler(*args, **kwargs)
    else:

        @wraps(handler)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            with _as_gradio_errors():
                return handler(*args, **kwargs)

    return guarded  # type: ignore[return-value]


@contextmanager
def _as_gradio_errors() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise _gradio_error(str(error)) from None
    except gr.Error:
        raise
    except Exception:
        log.exception("an event of the page failed")
        raise _gradio_error(UNEXPECTED) from None


def _gradio_error(sentence: str) -> gr.Error:
    # The page takes a message for HTML, and a sentence may hold the name of a file from elsewhere.
    return gr.Error(escape_text(sentence[:1].upper() + sentence[1:]), print_exception=False)
