// The few things that every part of the page does with the document.

/**
 * An element: `h("p", {class: "muted", onclick: f}, "text", other)`. Text is text: nothing that comes from a file or a
 * service is ever read as HTML.
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child != null));
  return element;
}

/** One line for a screen reader, about what has just changed elsewhere. */
export function say(text) {
  document.getElementById("said").textContent = text;
}

/** Does what a button is for, once at a time. A button that is disabled loses the focus; one that says it is does not. */
export async function whileBusy(button, work) {
  if (button.getAttribute("aria-disabled") === "true") return;
  button.setAttribute("aria-disabled", "true");
  try {
    await work();
  } finally {
    button.removeAttribute("aria-disabled");
  }
}

/** The colour that a custom property has in the theme of the moment, for what is drawn on a canvas. */
export function colour(name) {
  const probe = h("span");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

/** A property with the colour of an emotion, by its place among the model's labels. */
export const emotionColour = (place) => `--emotion-${(place % 8) + 1}`;

export const percent = (share) => `${Math.round(100 * share)} %`;

/** 75.34 as "1:15.3". */
export function clock(seconds) {
  const tenths = Math.round(10 * seconds);
  return `${Math.floor(tenths / 600)}:${String(Math.floor((tenths % 600) / 10)).padStart(2, "0")}.${tenths % 10}`;
}

/** Calls back whenever the theme has changed, by the button or by the system. */
export function onTheme(callback) {
  addEventListener("theme", callback);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", callback);
}
