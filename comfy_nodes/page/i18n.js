// Which words does the page show? Those of locales/<language>/, English where a language has none.

import { app } from "../../scripts/app.js";
import { address } from "./server.js";

let loading = null;
let languages = [];

/** Load them; once is enough, before `word` is used. */
export function loadWords() {
  loading ??= fetch(address("/i18n")).then((response) => response.json()).then((all) => {
    languages = [all[language()], all.en].filter(Boolean);
  });
  return loading;
}

/** The one that ComfyUI's settings name, as "zh". */
export function language() {
  return app.extensionManager?.setting?.get("Comfy.Locale") ?? "en";
}

/** The text of that key, its {names} replaced. A key that is in no language is shown as it is: a mistake to be seen. */
export function word(key, values = {}) {
  return (told("mapo", key) ?? key).replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

/** What the files that ComfyUI reads say at that place: told("commands", "MaPO_Judge", "label"); undefined: nothing. */
export function told(...path) {
  for (const language of languages) {
    const found = path.reduce((inside, name) => inside?.[name], language);
    if (found !== undefined) return found;
  }
}
