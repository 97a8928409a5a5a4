// What does the page remember of the person's choices, in this browser?

const PREFIX = "mapo:";

/** What was chosen last under that name; null where nothing was, or the browser keeps nothing. */
export function kept(name) {
  try {
    return localStorage.getItem(PREFIX + name);
  } catch {
    return null;
  }
}

export function keep(name, value) {
  try {
    localStorage.setItem(PREFIX + name, value);
  } catch {
    // a private window: chosen again next time
  }
}
