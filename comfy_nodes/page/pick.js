// A graph waits at MaPO Pick: is it this page that is asked, which pick is shown, and what of those of closed pages?

import { app } from "../../scripts/app.js";
import { PickOverlay } from "./pick-overlay.js";
import { ask, hear, pageId } from "./server.js";
import { loadWords, word } from "./i18n.js";

const LOOK_EVERY = 5000; // ms while a pick is open: an event that was lost must not leave it open

const mine = new Map(); // key -> pick, to be shown one after the other
const offered = new Map(); // of pages that are gone, or put aside here
const wanted = new Set(); // keys that the person asked to see here
const aside = new Set(); // keys that the person put aside
let overlay = null;
let bar = null;
let known = false; // whether the server was asked what waits
let news = 0; // events that were heard

app.registerExtension({
  name: "MaPO.Pick",
  async setup() {
    const sheet = Object.assign(document.createElement("link"), { rel: "stylesheet" });
    sheet.href = new URL("./pick.css", import.meta.url).href;
    document.head.append(sheet);
    await loadWords().catch(() => {}); // their names are shown then
    hear("mapo.pick", (pick) => {
      news += 1;
      sort(pick, pick.page !== pageId());
      show();
    });
    hear("mapo.picked", ended);
    hear("reconnected", look);
    hear("status", () => known || look());
    setInterval(() => overlay && look(), LOOK_EVERY);
    look();
  },
});

/** Asks which picks wait: a page that was loaded again, or was away, has heard of none. */
async function look() {
  const page = pageId();
  if (!page) return;
  known = true;
  const before = news;
  const reply = await ask(`/mapo/picks?${new URLSearchParams({ page })}`).catch(() => null);
  if (!reply) {
    known = false;
    return;
  }
  // What was heard meanwhile is newer than the reply, which would take it away.
  if (news !== before) return look();
  mine.clear();
  offered.clear();
  for (const pick of reply.picks) sort(pick, pick.gone);
  if (overlay && !mine.has(overlay.pick.key)) shut();
  show();
}

function sort(pick, gone) {
  const { key, page } = pick;
  if (!aside.has(key) && (page === pageId() || wanted.has(key))) mine.set(key, pick);
  else if (gone || aside.has(key)) offered.set(key, pick);
}

function ended({ key, how }) {
  news += 1;
  const open = overlay?.pick.key === key ? overlay : null;
  for (const kept of [mine, offered, wanted, aside]) kept.delete(key);
  if (open) {
    shut();
    if (!open.said) toast("info", word(`pick_over_${how}`));
  }
  show();
}

function show() {
  if (!overlay && mine.size) {
    const [pick] = mine.values();
    overlay = new PickOverlay(pick, { hidden: () => putAside(pick), done: look });
    overlay.open().catch((error) => {
      toast("error", error.message);
      putAside(pick);
    });
  }
  overlay?.more(mine.size - 1);
  showBar();
}

function shut() {
  const shown = overlay;
  overlay = null;
  shown.close();
}

function putAside(pick) {
  overlay = null;
  mine.delete(pick.key);
  aside.add(pick.key);
  offered.set(pick.key, pick);
  show();
}

/** For picks that open by themselves nowhere: a line at the lower edge, which is in nobody's way. */
function showBar() {
  bar?.remove();
  bar = null;
  if (!offered.size || overlay) return;
  bar = Object.assign(document.createElement("div"), { className: "mapo-pick-bar" });
  bar.setAttribute("role", "status");
  const count = offered.size;
  const open = Object.assign(document.createElement("button"), { type: "button", textContent: word("pick_show") });
  open.addEventListener("click", () => {
    for (const [key, pick] of offered) {
      wanted.add(key);
      aside.delete(key);
      mine.set(key, pick);
    }
    offered.clear();
    look();
  });
  bar.append(word(count === 1 ? "pick_waits" : "pick_wait", { count }), open);
  bar.popover = "manual"; // above ComfyUI's own dialogs, and in nobody's way
  document.body.append(bar);
  bar.showPopover();
}

function toast(severity, detail) {
  app.extensionManager.toast.add({ severity, summary: "MaPO Pick", detail, life: 6000 });
}
