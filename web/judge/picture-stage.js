// How are two to nine pictures shown at the same size, as large as the space allows, and pointed at?
//
// Zoom and pan are kept as fractions of a frame and apply to all pictures at once, so that the same detail of each is
// in sight, whatever their sizes. Pointing calls choose(index, clearly).

import { inWords } from "./i18n.js";

const CLOSEST = 12; // times
const STEP = 1.5; // times, for one press or one notch of a wheel
const LONG_PRESS = 500; // ms
const STILL = 8; // px a finger may tremble without dragging
const HELD = 300; // ms after which letting go of the flip key goes back
const BESIDE = 1.15; // how much larger pictures must get for it to be worth stacking two that could stand side by side
const GAP = 8; // px

export class PictureStage {
  #frames = [];
  #pictures = [];
  #names = [];
  #hints = [];
  #choose;
  #pointers = new Map();
  #gesture = null;
  #flip = { at: 0, before: null };
  // As last observed: asking the element would make the browser lay out the page between a press and its picture.
  #size = { width: 0, height: 0 };
  #zoom = 1;
  #x = 0;
  #y = 0;

  /** Which picture is alone in sight, or null where all are. */
  alone = null;

  constructor(choose) {
    this.#choose = choose;
    this.element = document.createElement("div");
    this.element.className = "stage";
    this.element.dir = "ltr";
    new ResizeObserver(([{ contentRect }]) => {
      this.#size = contentRect;
      this.#arrange();
    }).observe(this.element);
    const on = (name, act) => this.element.addEventListener(name, act.bind(this), { passive: false });
    on("pointerdown", this.#down);
    on("pointermove", this.#move);
    on("pointerup", this.#up);
    on("pointercancel", this.#cancel);
    on("contextmenu", this.#second);
    on("wheel", this.#wheel);
    on("dragstart", (event) => event.preventDefault());
    on("keydown", this.#key);
  }

  /** pictures: [{width, height}] and their decoded images; names: what each is called aloud; hints: the key of each. */
  show(pictures, images, names, hints) {
    while (this.#frames.length < pictures.length) this.#frames.push(newFrame());
    this.#pictures = pictures;
    this.#names = names;
    this.#hints = hints;
    this.#cancel();
    this.alone = null;
    this.#place(1, 0, 0);
    const frames = this.#frames.slice(0, pictures.length);
    frames.forEach((frame, index) => {
      images[index].alt = names[index];
      frame.picture.style.setProperty("--ratio", String(pictures[index].width / pictures[index].height));
      frame.picture.setAttribute("aria-label", inWords("{name} is better", { name: names[index] }));
      frame.shown.replaceChildren(images[index]);
      frame.badge.textContent = "";
    });
    const cells = frames.map((frame) => frame.cell);
    if (cells.length !== this.element.children.length) this.element.replaceChildren(...cells);
    this.#arrange();
  }

  clear() {
    this.#pictures = [];
    this.#cancel();
    this.element.replaceChildren();
  }

  /** A glow that fades by itself and waits for nobody. how: "chosen", "tie" or "bad". */
  glow(indexes, how) {
    for (const index of indexes) {
      const { light } = this.#frames[index] ?? {};
      if (!light) continue;
      light.dataset.how = how;
      light.animate([{ opacity: 1 }, { opacity: 1, offset: 0.5 }, { opacity: 0 }], { duration: 180 });
    }
  }

  /** A small word on a picture; "" takes it away. */
  mark(index, word) {
    this.#frames[index].badge.textContent = word;
  }

  /** One picture alone, then the next in the same place. */
  flip() {
    if (!this.#pictures.length) return false;
    this.#flip = { at: performance.now(), before: this.alone };
    this.alone = this.alone === null ? 0 : (this.alone + 1) % this.#pictures.length;
    this.#arrange();
    return true;
  }

  /** Who held the key wanted a glance. */
  endFlip() {
    const held = this.#flip.at && performance.now() - this.#flip.at > HELD;
    this.#flip.at = 0;
    if (!held) return;
    this.alone = this.#flip.before;
    this.#arrange();
  }

  zoomIn() {
    return this.#zoomTo(this.#zoom * STEP);
  }

  zoomOut() {
    return this.#zoomTo(this.#zoom / STEP);
  }

  /** Everything in sight again; false where it was. */
  reset() {
    if (this.#zoom === 1 && this.alone === null) return false;
    this.alone = null;
    this.#place(1, 0, 0);
    this.#arrange();
    return true;
  }

  /** Zooms so that the point (x, y), in fractions of a frame from its middle, stays where it is. */
  #zoomTo(zoom, x = 0, y = 0) {
    if (!this.#pictures.length) return false;
    const to = Math.min(CLOSEST, Math.max(1, zoom));
    const grown = to / this.#zoom;
    this.#place(to, x - (x - this.#x) * grown, y - (y - this.#y) * grown);
    return true;
  }

  #place(zoom, x, y) {
    const edge = (zoom - 1) / 2;
    this.#zoom = zoom;
    this.#x = Math.min(edge, Math.max(-edge, x));
    this.#y = Math.min(edge, Math.max(-edge, y));
    const { style } = this.element;
    style.setProperty("--zoom", String(this.#zoom));
    style.setProperty("--x", `${this.#x * 100}%`);
    style.setProperty("--y", `${this.#y * 100}%`);
    this.element.classList.toggle("zoomed", zoom > 1);
  }

  /** Chooses rows and columns that make the pictures largest. */
  #arrange() {
    const count = this.#pictures.length;
    if (!count) return;
    const { width, height } = this.#size;
    const single = this.alone !== null;
    let columns = count;
    let best = 0;
    for (let tried = count; tried >= 1; tried -= 1) {
      const rows = Math.ceil(count / tried);
      // Three and one of four: two and two are larger.
      if (Math.ceil(count / rows) < tried) continue;
      const area = this.#area((width - GAP * (tried - 1)) / tried, (height - GAP * (rows - 1)) / rows);
      if (area <= best * BESIDE) continue;
      best = area;
      columns = tried;
    }
    if (single) columns = 1;
    this.element.style.setProperty("--columns", String(columns));
    this.element.style.setProperty("--rows", String(single ? 1 : Math.ceil(count / columns)));
    this.element.classList.toggle("alone", single);
    const rows = Math.ceil(count / columns);
    this.#frames.slice(0, count).forEach(({ cell, caption }, index) => {
      cell.classList.toggle("away", single && index !== this.alone);
      // Towards the middle, so that the eye has a short way; many stand better at equal distances.
      cell.style.justifyItems = towards(columns > 3 ? 0 : (index % columns) - (columns - 1) / 2);
      cell.style.alignItems = single ? "center" : towards(Math.floor(index / columns) - (rows - 1) / 2);
      // Side by side, left is left; otherwise a key needs to be told.
      const told = rows > 1 ? this.#hints[index] : "";
      caption.textContent = single ? this.#names[index] : told;
    });
  }

  #area(width, height) {
    return this.#pictures.reduce((sum, picture) => {
      const ratio = picture.width / picture.height;
      const shown = Math.max(0, Math.min(width, height * ratio));
      return sum + (shown * shown) / ratio;
    }, 0);
  }

  #indexAt(event) {
    const path = event.composedPath();
    return this.#frames.findIndex(({ picture }, index) => index < this.#pictures.length && path.includes(picture));
  }

  /** Where a point is in its frame, in fractions from the middle. */
  #fraction(event, index) {
    const box = this.#frames[index].picture.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width - 0.5, (event.clientY - box.top) / box.height - 0.5];
  }

  #down(event) {
    const index = this.#indexAt(event);
    if (index < 0 || event.button !== 0) return;
    this.#pointers.set(event.pointerId, event);
    this.element.setPointerCapture(event.pointerId);
    if (this.#pointers.size > 1) {
      clearTimeout(this.#gesture?.timer);
      this.#gesture = { index, moved: true };
      return;
    }
    const gesture = { index, event, moved: false };
    if (event.pointerType !== "mouse") {
      gesture.timer = setTimeout(() => {
        gesture.moved = true;
        this.#choose(index, true, event.timeStamp);
      }, LONG_PRESS);
    }
    this.#gesture = gesture;
  }

  #move(event) {
    const before = this.#pointers.get(event.pointerId);
    if (!before || !this.#gesture) return;
    const { event: start } = this.#gesture;
    if (start && Math.hypot(event.clientX - start.clientX, event.clientY - start.clientY) > STILL) {
      this.#gesture.moved = true;
      clearTimeout(this.#gesture.timer);
    }
    if (this.#pointers.size === 2) this.#pinch(before, event);
    else if (this.#gesture.moved && this.#zoom > 1) {
      const box = this.#frames[0].picture.getBoundingClientRect();
      const right = (event.clientX - before.clientX) / box.width;
      this.#place(this.#zoom, this.#x + right, this.#y + (event.clientY - before.clientY) / box.height);
    }
    this.#pointers.set(event.pointerId, event);
  }

  #pinch(before, event) {
    const [other] = [...this.#pointers.values()].filter(({ pointerId }) => pointerId !== event.pointerId);
    const apart = (one) => Math.max(1, Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY));
    const [x, y] = this.#fraction(other, this.#gesture.index);
    this.#zoomTo(this.#zoom * (apart(event) / apart(before)), x, y);
  }

  #up(event) {
    if (!this.#pointers.delete(event.pointerId)) return;
    const gesture = this.#gesture;
    if (this.#pointers.size) return;
    this.#cancel();
    if (gesture && !gesture.moved) this.#choose(gesture.index, event.shiftKey, gesture.event.timeStamp);
  }

  #cancel() {
    clearTimeout(this.#gesture?.timer);
    this.#gesture = null;
    this.#pointers.clear();
  }

  #second(event) {
    event.preventDefault();
    const index = this.#indexAt(event);
    // A long press is heard above; its context menu comes as well.
    if (index >= 0 && event.pointerType !== "touch" && event.button === 2) this.#choose(index, true, event.timeStamp);
  }

  #wheel(event) {
    const index = this.#indexAt(event);
    // Nothing left to zoom out of: the page may scroll.
    if (index < 0 || (this.#zoom === 1 && event.deltaY > 0)) return;
    event.preventDefault();
    const [x, y] = this.#fraction(event, index);
    const notches = event.deltaMode === 0 ? event.deltaY / 100 : event.deltaY / 3;
    this.#zoomTo(this.#zoom * STEP ** Math.max(-2, Math.min(2, -notches)), x, y);
  }

  /** Enter or space on a picture that was reached by Tab. */
  #key(event) {
    const index = this.#indexAt(event);
    if (index < 0 || event.repeat || (event.key !== "Enter" && event.key !== " ")) return;
    event.preventDefault();
    this.#choose(index, event.shiftKey, event.timeStamp);
  }
}

function towards(offset) {
  return offset < 0 ? "end" : offset > 0 ? "start" : "center";
}

function newFrame() {
  const names = ["cell", "picture", "shown", "light", "badge", "caption"];
  const [cell, picture, shown, light, badge, caption] = names.map((className) => {
    return Object.assign(document.createElement("div"), { className });
  });
  picture.tabIndex = 0;
  picture.setAttribute("role", "button");
  picture.append(shown, light, badge, caption);
  cell.append(picture);
  return { cell, picture, shown, light, badge, caption };
}
