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
  "input, textarea, select, [contenteditable]:not([contenteditable='false'])",
  ...["textbox", "searchbox", "combobox", "slider", "spinbutton", "listbox", "menu"].map((role) => `[role=${role}]`),
].join();
const PRESSED = [
  "button, a[href], summary",
  ...["button", "tab", "link", "menuitem", "switch", "checkbox"].map((role) => `[role=${role}]`),
].join();
const NOT_TYPED_INTO = "[type=button], [type=submit], [type=reset], [type=image]";

const elements = new Set();
let lastUsed = null;

/** An element: canTakeKeys(path), knows(name), press({name, clearly, at}) -> whether it took it, release(name). */
export function listen(element) {
  if (!elements.size) {
    // Before the page's own handlers: a canvas or a gallery around the element has keys of its own.
    addEventListener("keydown", onDown, true);
    addEventListener("keyup", onUp, true);
    addEventListener("blur", onBlur);
  }
  elements.add(element);
}

export function stopListening(element) {
  elements.delete(element);
  if (lastUsed === element) lastUsed = null;
  if (elements.size) return;
  removeEventListener("keydown", onDown, true);
  removeEventListener("keyup", onUp, true);
  removeEventListener("blur", onBlur);
}

/** Of several visible elements, the one that was used last takes the keys. */
export function used(element) {
  lastUsed = element;
}

/** {name, clearly} for a key event, or null. Digits are "pick1" to "pick4". */
export function actionOf(event) {
  // By place, because Shift and a French keyboard put other signs there.
  const digit = /^(?:Digit|Numpad)([1-4])$/.exec(event.code);
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
  const action = meant(event);
  const element = action && taker(event);
  if (!element) return;
  if (event.repeat && !MAY_REPEAT.has(action.name)) {
    // A held space bar would scroll the page.
    if (element.knows(action.name)) stop(event);
    return;
  }
  if (element.press({ ...action, at: event.timeStamp })) stop(event);
}

function onUp(event) {
  const action = actionOf(event);
  if (action) for (const element of elements) element.release(action.name);
}

function onBlur() {
  for (const element of elements) element.release("flip");
}

function meant(event) {
  if (event.defaultPrevented || event.isComposing || event.ctrlKey || event.altKey || event.metaKey) return null;
  const [target] = event.composedPath();
  const path = event.composedPath().filter((node) => node instanceof Element);
  if (path.some((node) => node.matches(TYPED_INTO) && !node.matches(NOT_TYPED_INTO))) return null;
  const action = actionOf(event);
  // Who walks by Tab means the button that has the focus ring; after a click with the mouse there is no ring.
  const own = event.key === " " || event.key === "Enter" || path.some((node) => node.matches("[role=tab]"));
  if (own && target instanceof Element && target.matches(":focus-visible") && target.matches(PRESSED)) return null;
  return action;
}

function taker(event) {
  const path = event.composedPath();
  const able = [...elements].filter((element) => element.canTakeKeys(path));
  return able.find((element) => path.includes(element)) ?? able.find((element) => element === lastUsed) ?? able[0];
}

function stop(event) {
  event.preventDefault();
  event.stopPropagation();
}
