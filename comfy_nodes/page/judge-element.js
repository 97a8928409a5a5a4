// The judging element, the one that the studio shows, made when it is first wanted.

import { address } from "./server.js";
import { language } from "./i18n.js";

// ComfyUI marks its dark themes; an element of ours shows itself as it does.
const DARK = "dark-theme";

let loading = null;

/** A <mapo-judge> with these attributes. Its keys work only while the pointer is over it, unless told otherwise. */
export async function judgeElement(attributes) {
  loading ??= import(address("/mapo/judge/mapo-judge.js"));
  await loading;
  watchTheme();
  const element = document.createElement("mapo-judge");
  const given = { api: address("/mapo/api"), keys: "inside", lang: language(), ...attributes };
  for (const [name, value] of Object.entries(given)) if (value !== null) element.setAttribute(name, value);
  showTheme(element);
  return element;
}

let watching = null;

function watchTheme() {
  if (watching) return;
  watching = new MutationObserver(() => document.querySelectorAll("mapo-judge").forEach(showTheme));
  watching.observe(document.body, { attributeFilter: ["class"] });
}

function showTheme(element) {
  if (document.body.classList.contains(DARK)) element.removeAttribute("theme");
  else element.setAttribute("theme", "light");
}
