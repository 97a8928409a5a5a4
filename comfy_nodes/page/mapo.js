// What does this pack add to ComfyUI's page? Begin here: a tab, commands with their keys, a menu, settings, and news.

import { app } from "../../scripts/app.js";
import { insertCollect, insertNewestLora } from "./graph-nodes.js";
import { attempt, hearNews } from "./notifications.js";
import { translateDefinition, translateNode } from "./node-i18n.js";
import { refresh, show, sidebarTab } from "./sidebar.js";
import { loadWords, told, word } from "./i18n.js";

await loadWords();

const COMMANDS = [
  command("MaPO.Judge", "pi-heart", async () => (await show("judge")).focus()),
  command("MaPO.JudgeWide", "pi-window-maximize", async () => (await show("judge")).large()),
  command("MaPO.Train", "pi-chart-line", () => show("train")),
  command("MaPO.InsertLora", "pi-plus", () => attempt(insertNewestLora)),
  command("MaPO.InsertCollect", "pi-images", () => attempt(() => insertCollect())),
];

const KEYBINDINGS = [
  { commandId: "MaPO.Judge", combo: { key: "j", alt: true } },
  { commandId: "MaPO.JudgeWide", combo: { key: "j", alt: true, shift: true } },
  { commandId: "MaPO.Train", combo: { key: "t", alt: true } },
  { commandId: "MaPO.InsertLora", combo: { key: "l", alt: true } },
];

const SETTINGS = [
  setting("MaPO.Workspace", word("workspace_name"), word("workspace_about")),
  setting("MaPO.Annotator", word("annotator_name"), word("annotator_about")),
  setting("MaPO.TrainingDevice", word("device_name"), word("device_about")),
];

app.registerExtension({
  name: "MaPO.Studio",
  commands: COMMANDS,
  keybindings: KEYBINDINGS,
  menuCommands: [{ path: ["MaPO"], commands: COMMANDS.map(({ id }) => id) }],
  settings: SETTINGS,
  beforeRegisterNodeDef: translateDefinition,
  nodeCreated: translateNode,
  async setup() {
    const look = { rel: "stylesheet", href: new URL("./mapo.css", import.meta.url).href };
    document.head.append(Object.assign(document.createElement("link"), look));
    app.extensionManager.registerSidebarTab(sidebarTab());
    hearNews();
  },
});

function command(id, icon, act) {
  return { id, icon: `pi ${icon}`, label: told("commands", id.replaceAll(".", "_"), "label"), function: act };
}

// The server reads it with each request, so that it takes effect at once. Its words are in no settings.json: of that,
// ComfyUI's page (1.32) shows the English to whoever reads another language.
function setting(id, name, tooltip) {
  const category = ["MaPO", word("settings_group"), id];
  return { id, category, name, tooltip, type: "text", defaultValue: "", onChange: () => refresh() };
}
