// "Was it right?": one tap tells the service the true emotion of an answer.

import { feedback } from "./api.js";
import { judged } from "./answer.js";
import { h } from "./dom.js";

/** Buttons for one answered request; after a tap, what became of it. There is no "Yes" where no emotion was named. */
export function feedbackRow(labels, probabilities, requestId) {
  const heard = judged(probabilities).emotion;
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
  const chip = (label, attributes, words = label) => h("button", { type: "button", onclick: () => send(label), ...attributes }, words);
  const row = h("div", { class: "chips" });
  const question = h("p", {});
  const element = h("div", { class: "feedback", role: "group" }, question, row, told);
  const show = () => {
    const { sure } = judged(probabilities);
    const others = labels.filter((label) => !sure || label !== heard).map((label) => chip(label, { class: "chip" }));
    const lead = h("span", { class: "muted" }, sure ? "No, it was" : "It was");
    row.replaceChildren(...(sure ? [chip(heard, { class: "chip yes" }, `Yes, ${heard}`)] : []), lead, ...others);
    question.textContent = sure ? "Was it right?" : "What was it?";
    element.setAttribute("aria-label", question.textContent);
  };
  addEventListener("threshold", show);
  show();
  return element;
}
