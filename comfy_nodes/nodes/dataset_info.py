"""MaPO Dataset Info: what is in a dataset, on one sheet and in words."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..comfy_api import dataset_names, settings
from ..comfy_api.images import to_batch

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from ...trainer.preferences.schema import Dataset
    from ...trainer.preferences.statistics import Statistics


class DatasetInfo(io.ComfyNode):
    """Reads; changes nothing."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaPODatasetInfo",
            display_name="MaPO Dataset Info",
            category="MaPO",
            description="How far a dataset is judged, how sure the answers are, and what was chosen last.",
            is_output_node=True,
            inputs=[
                io.Combo.Input("dataset", options=dataset_names.datasets(), tooltip="Where pictures were collected."),
            ],
            outputs=[
                io.Image.Output(
                    "sheet", display_name="sheet", tooltip="The newest pairs with a preference, chosen beside rejected."
                ),
                io.String.Output(
                    "report", display_name="report", tooltip="Counts, agreement, and what is trained on, in words."
                ),
                io.Int.Output("judged", display_name="judged", tooltip="Pairs that you judged."),
                io.Int.Output("waiting", display_name="waiting", tooltip="Pairs that you can judge now."),
            ],
        )

    @classmethod
    def validate_inputs(cls, dataset: str | None) -> bool | str:
        # Named here, ComfyUI leaves the check of the list to us: the same graph may just be making the dataset.
        return bool(dataset and dataset.strip()) or "choose a dataset; there is one as soon as pictures are collected"

    @classmethod
    def fingerprint_inputs(cls, dataset: str | None) -> str:
        """Another one when something was collected or judged."""
        from ...trainer.preferences.datasets import find_dataset

        with settings.store().reading() as session:
            counts = asdict(_statistics(session, find_dataset(session, dataset or "")))
        return repr({name: value for name, value in counts.items() if name not in ("today", "pace_per_minute")})

    @classmethod
    def execute(cls, dataset: str) -> io.NodeOutput:
        from ...trainer.evaluation.dataset_overview import contact_sheet, in_words, newest
        from ...trainer.preferences.datasets import find_dataset

        store = settings.store()
        with store.reading() as session:
            row = find_dataset(session, dataset)
            name, now, pairs = row.name, _statistics(session, row), newest(session, store, row)
        sheet, report = to_batch([contact_sheet(name, pairs)]), in_words(name, now)
        return io.NodeOutput(sheet, report, now.judged, now.waiting, ui={"text": (report,)})


def _statistics(session: Session, dataset: Dataset) -> Statistics:
    from ...trainer.preferences.statistics import statistics_of

    return statistics_of(session, dataset, settings.annotator())


NODE = DatasetInfo
