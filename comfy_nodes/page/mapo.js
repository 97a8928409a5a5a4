// What does this pack add to ComfyUI's page? Begin here: a tab, commands with their keys, a menu, settings, and news.

import { app } from "../../scripts/app.js";
import { insertCollect, insertNewestLora } from "./graph-nodes.js";
import { attempt, hearNews } from "./news.js";
import { refresh, show, sidebarTab } from "./sidebar.js";
import { loadWords } from "./words.js";

const COMMANDS = [
  { id: "MaPO.Judge", icon: "pi pi-heart", label: "Judge pairs", function: judge },
  { id: "MaPO.JudgeWide", icon: "pi pi-window-maximize", label: "Judge with large pictures", function: judgeLarge },
  { id: "MaPO.Train", icon: "pi pi-chart-line", label: "Train a LoRA", function: train },
  { id: "MaPO.InsertLora", icon: "pi pi-plus", label: "Insert the newest LoRA", function: insertLora },
  { id: "MaPO.InsertCollect", icon: "pi pi-images", label: "Insert MaPO Collect", function: collect },
];

const KEYBINDINGS = [
  { commandId: "MaPO.Judge", combo: { key: "j", alt: true } },
  { commandId: "MaPO.JudgeWide", combo: { key: "j", alt: true, shift: true } },
  { commandId: "MaPO.Train", combo: { key: "t", alt: true } },
  { commandId: "MaPO.InsertLora", combo: { key: "l", alt: true } },
];

const SETTINGS = [
  {
    id: "MaPO.Workspace",
    category: ["MaPO", "Judging and training", "Workspace"],
    name: "Workspace folder",
    tooltip: "Where judgements and trainings are kept: the whole path. Empty: a folder of ComfyUI's user. MaPO Studio can open the same.",
    type: "text",
    defaultValue: "",
    onChange: () => refresh(),
  },
  {
    id: "MaPO.Annotator",
    category: ["MaPO", "Judging and training", "Annotator"],
    name: "Your name as a judge",
    tooltip: "Who judges, where several people judge the same pairs. Empty: the name that this machine knows you by.",
    type: "text",
    defaultValue: "",
    onChange: () => refresh(),
  },
];

app.registerExtension({
  name: "MaPO.Studio",
  commands: COMMANDS,
  keybindings: KEYBINDINGS,
  menuCommands: [{ path: ["MaPO"], commands: COMMANDS.map(({ id }) => id) }],
  settings: SETTINGS,
  async setup() {
    const look = { rel: "stylesheet", href: new URL("./mapo.css", import.meta.url).href };
    document.head.append(Object.assign(document.createElement("link"), look));
    await loadWords();
    app.extensionManager.registerSidebarTab(sidebarTab());
    hearNews();
  },
});

async function judge() {
  await (await show("judge")).focus();
}

async function judgeLarge() {
  await (await show("judge")).large();
}

async function train() {
  await show("train");
}

function insertLora() {
  return attempt(insertNewestLora);
}

function collect() {
  return attempt(() => insertCollect());
}
