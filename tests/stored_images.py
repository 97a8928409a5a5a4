"""An image file and its row in one call, for tests that need images in a workspace."""

from __future__ import annotations

from mapo_studio.trainer.preferences.images import ImageMetadata, image_record, store_image
from mapo_studio.trainer.preferences.schema import ImageRecord
from mapo_studio.trainer.preferences.store import Store
from sqlalchemy.orm import Session


def add_image(
    store: Store, session: Session, data: bytes, label: str, metadata: ImageMetadata | None = None
) -> ImageRecord:
    """The record of these bytes, whose file is written if it is not there."""
    return image_record(session, store_image(store, data, label), metadata or ImageMetadata())
