// The page: three views, one at a time, by the address's fragment.

import { openClips } from "./clips.js";
import { h } from "./dom.js";
import { openLive } from "./live.js";
import { openModel } from "./model.js";
import { openTheme, openThreshold } from "./state.js";

const VIEWS = { clips: () => {}, live: openLive, model: openModel };
const opened = new Set();

function show() {
  const wanted = location.hash.slice(1) || "clips";
  if (!(wanted in VIEWS)) return; // the link that skips to the content
  for (const name of Object.keys(VIEWS)) document.getElementById(name).hidden = name !== wanted;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${wanted}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const threshold = document.getElementById("threshold");
  threshold.hidden = wanted === "model";
  document.getElementById(`${wanted}-title`).after(threshold);
  document.title = `Timbre: ${document.querySelector(`nav a[href="#${wanted}"]`).textContent.toLowerCase()}`;
  scrollTo(0, 0);
  if (opened.has(wanted)) return;
  opened.add(wanted);
  VIEWS[wanted](document.getElementById(`${wanted}-view`));
}

openTheme();
openThreshold();
openClips();
addEventListener("hashchange", show);
// A fault of the page itself is said, not only logged.
const fail = (message) =>
  document.getElementById("main").prepend(h("p", { class: "refusal", role: "alert" }, `The page failed: ${message}`));
addEventListener("error", (event) => event.error && fail(event.message)); // without one it is the browser's own remark
addEventListener("unhandledrejection", (event) => fail(event.reason?.message ?? event.reason));
show();
