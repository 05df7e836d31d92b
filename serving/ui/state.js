// What the whole page shares: the loaded versions, the threshold, the theme.

import { models } from "./api.js";
import { percent } from "./dom.js";

/** Kept between visits where the browser allows it. */
function remembered(name, otherwise) {
  try {
    return localStorage.getItem(name) ?? otherwise;
  } catch {
    return otherwise;
  }
}

function remember(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // A browser that keeps nothing shows the page all the same.
  }
}

/** What `/models` says: asked once, and again after a failure. */
let asked;
export function loaded() {
  asked ??= models().catch((error) => {
    asked = undefined;
    throw error;
  });
  return asked;
}

/** What `/models` says now. */
export function loadedNow() {
  asked = undefined;
  return loaded();
}

/** The version that answers unless another is asked for. */
export function standing(told) {
  const version = told.variants[told.default].version;
  return told.models.find((model) => model.version === version);
}

/** The names of the emotions, in the model's order. */
export async function labels() {
  return standing(await loaded()).metadata.labels;
}

/** Below this probability no emotion is named. */
export const threshold = { value: Number(remembered("timbre.threshold", "40")) / 100 };

export function openThreshold() {
  const range = document.getElementById("threshold-range");
  const show = () => {
    threshold.value = range.value / 100;
    document.getElementById("threshold-value").textContent = percent(threshold.value);
    range.setAttribute("aria-valuetext", percent(threshold.value));
    tellMeaning();
    dispatchEvent(new Event("threshold"));
  };
  range.value = Math.round(100 * threshold.value);
  range.addEventListener("input", show);
  range.addEventListener("change", () => remember("timbre.threshold", range.value));
  show();
}

/** What the threshold has meant in the model's exam, where that was measured. */
async function tellMeaning() {
  const place = document.getElementById("threshold-meaning");
  try {
    const { metadata } = standing(await loaded());
    const row = metadata.rejection?.findLast((each) => each.min_confidence <= threshold.value + 1e-9);
    const { test } = metadata.metrics;
    place.textContent = row?.answered
      ? `In its exam, ${test.clips} clips of ${metadata.training.speakers.test.length} voices, version ${metadata.version} then ` +
        `answered ${percent(row.answered)} of them, ${percent(row.accuracy)} of those rightly.`
      : "";
  } catch {
    place.textContent = "";
  }
}

const THEMES = { auto: "As the system", light: "Light", dark: "Dark" };

export function openTheme() {
  const button = document.getElementById("theme");
  const names = Object.keys(THEMES);
  const show = (theme) => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.dataset.theme = theme;
    button.textContent = { auto: "◐", light: "☀", dark: "☾" }[theme];
    button.setAttribute("aria-label", `Colours: ${THEMES[theme]}`);
    button.title = `Colours: ${THEMES[theme]}`;
    dispatchEvent(new Event("theme"));
  };
  const kept = remembered("timbre.theme", "auto");
  show(names.includes(kept) ? kept : "auto");
  button.addEventListener("click", () => {
    const next = names[(names.indexOf(button.dataset.theme) + 1) % names.length];
    remember("timbre.theme", next);
    show(next);
  });
}
