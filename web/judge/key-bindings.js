// Which key means what, and which element on the page takes it?

const BY_KEY = {
  arrowleft: "left",
  arrowright: "right",
  arrowdown: "tie",
  x: "both_bad",
  " ": "skip",
  z: "undo",
  f: "flip",
  "+": "zoom_in",
  "=": "zoom_in",
  "-": "zoom_out",
  0: "reset",
  escape: "reset",
  enter: "confirm",
  o: "order",
};
const MAY_REPEAT = new Set(["zoom_in", "zoom_out"]);
const TYPED_INTO = [
  "input:not([type=button], [type=submit], [type=reset], [type=image], [type=radio], [type=checkbox])",
  "textarea, select, [contenteditable]:not([contenteditable='false'])",
  ...["textbox", "searchbox", "combobox", "slider", "spinbutton", "listbox", "menu"].map((role) => `[role=${role}]`),
].join();
const PRESSED = [
  "button, input, a[href], summary",
  ...["button", "tab", "link", "menuitem", "switch", "checkbox"].map((role) => `[role=${role}]`),
].join();
const MOVES_BY_ARROWS = "[type=radio], [role=radio], [role=tab], [role=menuitem]";

const elements = new Set();
let lastUsed = null;
// Whether the focus is where Tab brought it, not a click. (:focus-visible turns true with the first key after a click.)
let walked = false;
const taken = new Set();

/**
 * An element has: canTakeKeys(path), knows(name), press({name, clearly, at}) -> whether it took it, release(name), and
 * typing(is): the keys go into a text field now.
 */
export function listen(element) {
  if (!elements.size) {
    // A host may make the element only when its tab is chosen: that click was before this.
    walked = Boolean(document.activeElement?.matches(":focus-visible"));
    // Before the page's own handlers: a canvas or a gallery around the element has keys of its own.
    addEventListener("keydown", onDown, true);
    addEventListener("keyup", onUp, true);
    addEventListener("pointerdown", onPointer, true);
    addEventListener("blur", onBlur);
    addEventListener("focusin", onFocus, true);
    addEventListener("focusout", onFocus, true);
  }
  elements.add(element);
}

export function stopListening(element) {
  elements.delete(element);
  if (lastUsed === element) lastUsed = null;
  if (elements.size) return;
  removeEventListener("keydown", onDown, true);
  removeEventListener("keyup", onUp, true);
  removeEventListener("pointerdown", onPointer, true);
  removeEventListener("blur", onBlur);
  removeEventListener("focusin", onFocus, true);
  removeEventListener("focusout", onFocus, true);
}

/** Of several visible elements, the one that was used last takes the keys. */
export function used(element) {
  lastUsed = element;
}

/** {name, clearly} for a key event, or null. Digits are "pick1" to "pick9". */
export function actionOf(event) {
  // By place, because Shift and a French keyboard put other signs there.
  const digit = /^(?:Digit|Numpad)([1-9])$/.exec(event.code);
  if (digit && !(event.code.startsWith("Numpad") && event.key !== digit[1])) {
    return { name: `pick${digit[1]}`, clearly: event.shiftKey };
  }
  let key = event.key.toLowerCase();
  // A keyboard without Latin letters: by place as well.
  if (/^[^\x00-\x7f]$/.test(key) && event.code.startsWith("Key")) key = event.code.slice(3).toLowerCase();
  const name = BY_KEY[key];
  return name ? { name, clearly: event.shiftKey } : null;
}

function onDown(event) {
  if (event.key === "Tab") walked = true;
  const action = meant(event);
  const element = action && taker(event);
  if (!element) return;
  if (event.repeat && !MAY_REPEAT.has(action.name)) {
    // A held space bar would scroll the page.
    if (element.knows(action.name)) stop(event);
    return;
  }
  if (!element.press({ ...action, at: event.timeStamp })) return;
  stop(event);
  // With the first key, the browser would draw the focus ring around what was only clicked.
  const [target] = event.composedPath();
  if (!walked && target instanceof Element && target.matches(PRESSED)) target.blur();
}

function onUp(event) {
  // Some browsers press a focused button when the space bar comes up.
  if (taken.delete(event.code)) event.preventDefault();
  const action = actionOf(event);
  if (action) for (const element of elements) element.release(action.name);
}

function onPointer() {
  walked = false;
}

function onFocus() {
  setTimeout(() => {
    let focused = document.activeElement;
    while (focused?.shadowRoot?.activeElement) focused = focused.shadowRoot.activeElement;
    for (const element of elements) element.typing(Boolean(focused?.matches(TYPED_INTO)));
  });
}

function onBlur() {
  for (const element of elements) element.release("flip");
}

function meant(event) {
  if (event.defaultPrevented || event.isComposing || event.ctrlKey || event.altKey || event.metaKey) return null;
  const [target] = event.composedPath();
  const path = event.composedPath().filter((node) => node instanceof Element);
  if (path.some((node) => node.matches(TYPED_INTO))) return null;
  const action = actionOf(event);
  // Who walks by Tab means the button with the focus ring; who clicked a tab or a button wants to go on judging.
  if (walked && target instanceof Element && target.matches(PRESSED)) {
    const own = event.key.startsWith("Arrow") ? target.matches(MOVES_BY_ARROWS) : [" ", "Enter"].includes(event.key);
    if (own) return null;
  }
  return action;
}

function taker(event) {
  const path = event.composedPath();
  const able = [...elements].filter((element) => element.canTakeKeys(path));
  return able.find((element) => path.includes(element)) ?? able.find((element) => element === lastUsed) ?? able[0];
}

function stop(event) {
  taken.add(event.code);
  event.preventDefault();
  event.stopPropagation();
}
