// What is a person told of that happens while they do something else, and which lists change with it?

import { app } from "../../scripts/app.js";
import { hear } from "./server.js";
import { word } from "./i18n.js";

const GATHER = 400; // ms: what comes within it refreshes ComfyUI's lists once
const BRIEFLY = 6000; // ms

let refreshing = null;

/** Begin to listen; once, when the words are there. */
export function hearNews() {
  hear("mapo.ended", ({ name, phase, sentence }) => {
    const how = { finished: "success", stopped: "info" }[phase] ?? "error";
    // What failed stays until it was seen.
    tell(how, word(how === "error" ? "run_failed" : "run_ended", { run: name }), sentence, how !== "error");
  });
  hear("mapo.lora", ({ lora }) => {
    tell("success", word("new_lora"), lora);
    refreshLists();
  });
  hear("mapo.shares", ({ sentence }) => tell("warn", word("shares_card"), sentence));
  hear("mapo.datasets", refreshLists);
}

/** A note in ComfyUI's corner. how: "success", "info", "warn" or "error". */
export function tell(how, summary, detail = "", passes = true) {
  app.extensionManager.toast.add({ severity: how, summary, detail, ...(passes ? { life: BRIEFLY } : {}) });
}

/** Do something a person asked for; what goes wrong is told. */
export async function attempt(act) {
  try {
    return await act();
  } catch (error) {
    tell("error", word("not_done"), error.message, false);
    return null;
  }
}

function refreshLists() {
  clearTimeout(refreshing);
  refreshing = setTimeout(() => app.refreshComboInNodes(), GATHER);
}
