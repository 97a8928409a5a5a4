// How is a piece of the page made? What it says is always text: nothing that a person wrote is ever read as HTML.

/** make("button", { class: "mapo-plain", onclick }, "text", child): attributes, handlers, and what is inside. */
export function make(tag, given = {}, ...inside) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...inside.filter((one) => one !== null && one !== undefined));
  return element;
}

/** A button; icon: a name of PrimeIcons, which ComfyUI's page has. Without words it is known by its title. */
export function button(says, act, { icon = null, title = null, look = "plain" } = {}) {
  const picture = icon && make("i", { class: `pi ${icon}`, "aria-hidden": "true" });
  const given = { type: "button", class: `mapo-button mapo-${look}`, title, "aria-label": says ? null : title };
  return make("button", { ...given, onclick: act }, picture, says ? make("span", {}, says) : null);
}

/** Fill a <select> with [{value, says, title}], and choose `chosen` where it is among them. Says what is chosen then. */
export function fill(select, options, chosen) {
  const made = options.map(({ value, says, title = null }) => make("option", { value, title }, says));
  select.replaceChildren(...made);
  if (options.some(({ value }) => value === chosen)) select.value = chosen;
  return select.value;
}
