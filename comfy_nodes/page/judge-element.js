// The judging element, the one that the studio shows, made when it is first wanted.

import { address } from "./server.js";

let loading = null;

/** A <mapo-judge> with these attributes. Its keys work only while the pointer is over it, unless told otherwise. */
export async function judgeElement(attributes) {
  loading ??= import(address("/mapo/judge/mapo-judge.js"));
  await loading;
  const element = document.createElement("mapo-judge");
  const given = { api: address("/mapo/api"), keys: "inside", ...attributes };
  for (const [name, value] of Object.entries(given)) if (value !== null) element.setAttribute(name, value);
  return element;
}
