// How does a node of ours get into the graph that is open?

import { app } from "../../scripts/app.js";
import { install, runs } from "./runs.js";
import { word } from "./i18n.js";

const STEP = 40; // px beside a node that lies there already

/** MaPO Collect, for that dataset. */
export function insertCollect(dataset) {
  return insert("MaPOCollect", dataset ? { dataset } : {});
}

/** MaPO Load LoRA with that LoRA chosen, by its name in ComfyUI's list. */
export async function insertLora(lora) {
  const node = insert("MaPOLoadLoRA", {});
  const list = node.widgets.find(({ name }) => name === "lora_name");
  if (!list.options.values.includes?.(lora)) await app.refreshComboInNodes();
  set(node, { lora_name: lora });
  return node;
}

/** Likewise with the newest LoRA that a training made, which is put into ComfyUI's list first if it is not there. */
export async function insertNewestLora() {
  const [newest] = (await runs()).filter(({ phase, lora }) => lora || phase === "finished");
  if (!newest) throw new Error(word("no_lora"));
  return insertLora(newest.lora ?? (await install(newest.name)));
}

/** Put a node into the middle of what is in sight, selected. */
function insert(type, values) {
  const node = window.LiteGraph.createNode(type);
  if (!node) throw new Error(word("no_node", { node: type }));
  const { canvas } = app;
  const graph = canvas.graph ?? app.graph;
  const [x, y, width, height] = canvas.ds.visible_area;
  node.pos = [x + (width - node.size[0]) / 2, y + (height - node.size[1]) / 2];
  while (graph.nodes.some(({ pos }) => Math.hypot(pos[0] - node.pos[0], pos[1] - node.pos[1]) < STEP / 2)) {
    node.pos = [node.pos[0] + STEP, node.pos[1] + STEP];
  }
  graph.beforeChange?.();
  graph.add(node);
  set(node, values);
  canvas.selectItems([node]);
  graph.afterChange?.();
  canvas.setDirty(true, true);
  return node;
}

function set(node, values) {
  for (const widget of node.widgets ?? []) {
    if (!(widget.name in values)) continue;
    widget.value = values[widget.name];
    widget.callback?.(widget.value);
  }
}
