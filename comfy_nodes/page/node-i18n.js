// How do our nodes speak the language of the page?
//
// ComfyUI reads locales/<language>/nodeDefs.json itself. But its page (1.32) takes in the words of packs first and then
// puts its own words of that language in their place, so that ours are lost. Told here again, they are the same.

import { told } from "./i18n.js";

const OURS = "MaPO";

/** For registerExtension's beforeRegisterNodeDef: what is said of a kind of node. */
export function translateDefinition(type, definition) {
  if (!definition.name.startsWith(OURS)) return;
  const words = told("nodeDefs", definition.name);
  if (!words) return;
  definition.display_name = words.display_name ?? definition.display_name;
  definition.description = words.description ?? definition.description;
  for (const inputs of Object.values(definition.input)) {
    for (const [name, input] of Object.entries(inputs ?? {})) {
      const tooltip = words.inputs?.[name]?.tooltip;
      if (tooltip && input[1]) input[1].tooltip = tooltip;
    }
  }
  definition.output_tooltips = definition.output_tooltips?.map((said, at) => words.outputs?.[at]?.tooltip ?? said);
}

/** For registerExtension's nodeCreated: what stands on one node. */
export function translateNode(node) {
  if (!node.comfyClass?.startsWith(OURS)) return;
  const words = told("nodeDefs", node.comfyClass);
  for (const one of node.widgets ?? []) one.label = words?.inputs?.[one.name]?.name ?? one.label;
  for (const one of node.inputs ?? []) one.localized_name = words?.inputs?.[one.name]?.name ?? one.localized_name;
  node.outputs?.forEach((one, at) => {
    one.localized_name = words?.outputs?.[at]?.name ?? one.localized_name;
  });
}
