// "Was it right?": one tap tells the service the true emotion of an answer.

import { feedback } from "./api.js";
import { h } from "./dom.js";

/** Buttons for one answered request; after a tap, what became of it. */
export function feedbackRow(labels, heard, requestId) {
  const told = h("p", { class: "muted", role: "status", tabindex: "-1" });
  const send = async (emotion) => {
    const focused = row.contains(document.activeElement) && document.activeElement;
    row.inert = true;
    try {
      const verdict = await feedback(requestId, emotion);
      const agreed = verdict.agreed ? `as version ${verdict.version} had said` : `not ${verdict.heard}`;
      told.textContent = verdict.counted ? `Thank you: ${emotion}, ${agreed}.` : "This answer had been judged before.";
      row.remove();
      if (focused) told.focus(); // what had it is gone
    } catch (error) {
      row.inert = false;
      if (focused) focused.focus();
      told.textContent = error.message;
    }
  };
  const right = h("button", { type: "button", class: "chip yes", onclick: () => send(heard) }, `Yes, ${heard}`);
  const others = labels
    .filter((label) => label !== heard)
    .map((label) => h("button", { type: "button", class: "chip", onclick: () => send(label) }, label));
  const row = h("div", { class: "chips" }, right, h("span", { class: "muted" }, "No, it was"), others);
  return h("div", { class: "feedback", role: "group", "aria-label": "Was it right?" }, h("p", {}, "Was it right?"), row, told);
}
