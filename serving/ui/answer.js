// An answer as people read it: the emotion large, how sure, every probability as a bar.

import { emotionColour, h, percent } from "./dom.js";
import { threshold } from "./state.js";

/** The most probable emotion; named only where the model is sure enough. */
export function judged(probabilities) {
  const [emotion, confidence] = Object.entries(probabilities).reduce((best, next) => (next[1] > best[1] ? next : best));
  const place = Object.keys(probabilities).indexOf(emotion);
  return { emotion, confidence, place, sure: confidence >= threshold.value };
}

/** "angry", or "not sure". */
export const named = (probabilities) => {
  const best = judged(probabilities);
  return best.sure ? best.emotion : "not sure";
};

/** A view of an answer that can be shown another one; it follows the threshold. */
export class AnswerView {
  constructor(labels, waiting = "") {
    this.word = h("p", { class: "answer-word" }, waiting);
    this.doubt = h("p", { class: "answer-doubt muted" });
    this.bars = labels.map((label, place) => {
      const fill = h("span", { class: "bar-fill" });
      fill.style.background = `var(${emotionColour(place)})`;
      const share = h("span", { class: "bar-share" }, "–");
      const row = h("li", {}, h("span", { class: "bar-name" }, label), h("span", { class: "bar" }, fill), share);
      return { label, fill, share, row };
    });
    const list = h("ul", { class: "bars", "aria-label": "Probabilities" }, this.bars.map((bar) => bar.row));
    this.element = h("div", { class: "answer" }, this.word, this.doubt, list);
    addEventListener("threshold", () => this.probabilities && this.show(this.probabilities));
  }

  show(probabilities) {
    this.probabilities = probabilities;
    const best = judged(probabilities);
    this.word.textContent = best.sure ? best.emotion : "not sure";
    this.word.classList.toggle("unsure", !best.sure);
    this.word.style.setProperty("--of-emotion", `var(${emotionColour(best.place)})`);
    this.doubt.textContent = best.sure
      ? `${percent(best.confidence)} probable`
      : `most likely ${best.emotion}, but only ${percent(best.confidence)} probable`;
    for (const bar of this.bars) {
      const share = probabilities[bar.label] ?? 0;
      bar.fill.style.width = `${100 * share}%`;
      bar.share.textContent = percent(share);
      bar.row.classList.toggle("most", bar.label === best.emotion);
    }
  }
}
