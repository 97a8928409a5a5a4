"""Judge tab: the judging element, which fills it, and the attributes that it gets."""

from __future__ import annotations

import gradio as gr

from ..context import PageContext

_VIEWS = [("Pairs", "pairs"), ("Rank four", "rank")]
_ORDERS = [("Spread over prompts", "spread"), ("Most useful first", "useful")]

# The element stays the same one: it holds pictures it fetched ahead and answers on their way.
_SET_ATTRIBUTES = """
const judge = element.querySelector("mapo-judge");
const update = () => {
  for (const [name, value] of Object.entries(props.value || {})) {
    if (judge.getAttribute(name) !== value) judge.setAttribute(name, value);
  }
};
update();
watch("value", update);
"""


def judge_tab(context: PageContext) -> None:
    """The judging element for the header's dataset; another dataset, view or order changes its attributes in place."""
    with gr.Row(elem_id="judge-options"):
        view = gr.Radio(_VIEWS, value="pairs", show_label=False, container=False, elem_classes="segments")
        order = gr.Radio(_ORDERS, value="spread", show_label=False, container=False, elem_classes="segments")
    pane = gr.HTML(
        {"dataset": "", "view": "pairs", "order": "spread"},
        elem_id="judge-pane",
        html_template='<mapo-judge api="/mapo/api"></mapo-judge>',
        js_on_load=_SET_ATTRIBUTES,
        apply_default_css=False,
    )
    gr.on(
        [context.dataset.change, view.change, order.change],
        None,
        [context.dataset, view, order],
        pane,
        js="(dataset, view, order) => ({dataset: dataset || '', view, order})",
    )
