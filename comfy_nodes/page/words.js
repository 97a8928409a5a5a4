// Which words does the page show? Those of locales/<language>/main.json, English where a language has none.

import { app } from "../../scripts/app.js";
import { address } from "./server.js";

let loading = null;

/** Load them; once is enough, before `word` is used. */
export function loadWords() {
  loading ??= fetch(address("/i18n")).then((response) => response.json()).then((all) => {
    const language = app.extensionManager?.setting?.get("Comfy.Locale") ?? "en";
    Object.assign(known, all.en?.mapo, all[language]?.mapo);
  });
  return loading;
}

const known = {};

/** The text of that key, its {names} replaced. A key that is in no language is shown as it is: a mistake to be seen. */
export function word(key, values = {}) {
  return (known[key] ?? key).replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}
