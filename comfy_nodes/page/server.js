// How does the page ask this pack's routes? Everything is JSON; what is refused is an Error with the server's sentence.

import { api } from "../../scripts/api.js";

/** GET, or POST where there is something to say. */
export async function ask(path, said) {
  const sending = said === undefined ? {} : { method: "POST", body: JSON.stringify(said) };
  const headers = said === undefined ? {} : { "Content-Type": "application/json" };
  const response = await fetch(address(path), { ...sending, headers, cache: "no-store" });
  const reply = await response.json().catch(() => null);
  if (!response.ok) throw new Error(reply?.error ?? `ComfyUI answered ${response.status}`);
  return reply;
}

/** Where a path of ours, such as "/mapo/api", is: ComfyUI may be served below another address. */
export function address(path) {
  return `${api.api_base ?? ""}${path}`;
}

/** This page, as the server knows it. */
export function pageId() {
  return api.clientId ?? api.initialClientId ?? "";
}

/** Call `act` with what the server sends under this name. */
export function hear(event, act) {
  api.addEventListener(event, ({ detail }) => act(detail));
}
