// Files: dropped or chosen, each with a card of its own.

import { Refused, predict } from "./api.js";
import { AnswerView, named } from "./answer.js";
import { comparison } from "./compare.js";
import { h, say, whileBusy } from "./dom.js";
import { feedbackRow } from "./feedback.js";
import { Player, stageOf } from "./player.js";
import { asCurl, asPython, snippetRow } from "./snippets.js";
import { labels, threshold } from "./state.js";
import { Timeline, timelineTable } from "./timeline.js";

const AT_A_TIME = 2; // uploads; the rest wait their turn, so that many files do not take every permit of the service

const waiting = [];
let running = 0;

/** Takes files from the button and from the whole window. */
export function openClips() {
  const chosen = document.getElementById("files");
  chosen.addEventListener("change", () => {
    take(chosen.files);
    chosen.value = ""; // so that the same file can be chosen again
  });
  const drop = document.getElementById("drop");
  const over = (event, here) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    drop.classList.toggle("over", here);
  };
  addEventListener("dragover", (event) => over(event, true));
  addEventListener("dragleave", (event) => over(event, event.relatedTarget !== null));
  addEventListener("drop", (event) => {
    over(event, false);
    if (event.dataTransfer?.files.length) {
      location.hash = "clips";
      take(event.dataTransfer.files);
    }
  });
}

function take(files) {
  const list = document.getElementById("clip-list");
  const cards = [...files].map((file) => new ClipCard(file));
  list.prepend(...cards.map((card) => card.element));
  waiting.push(...cards);
  while (running < AT_A_TIME && waiting.length) goOn();
}

async function goOn() {
  running += 1;
  while (waiting.length) {
    const card = waiting.shift();
    if (!card.gone.signal.aborted) await card.fill();
  }
  running -= 1;
}

/** One file: its waveform, its answer, and what can be done with them. */
class ClipCard {
  constructor(file) {
    this.file = file;
    this.gone = new AbortController(); // what is still being asked when the card is removed, nobody waits for
    this.body = h("div", { class: "card-body" }, h("p", { class: "muted" }, "Listening …"));
    this.about = h("p", { class: "muted about" });
    const close = () => {
      this.gone.abort();
      this.player?.close();
      this.element.remove();
    };
    this.element = h(
      "article",
      { class: "card", "aria-label": file.name, "aria-busy": "true" },
      h(
        "header",
        { class: "card-head" },
        h("div", {}, h("h2", {}, file.name), this.about),
        h("button", { type: "button", class: "quiet close", "aria-label": `Remove ${file.name}`, onclick: close }, "✕"),
      ),
      this.body,
    );
  }

  /** Asks, and shows what comes of it. */
  async fill() {
    try {
      const request = { name: this.file.name, minConfidence: threshold.value };
      const answer = await predict(this.file, request, this.gone.signal);
      await this.#show(answer, request, await labels());
      say(`${this.file.name}: ${named(answer.prediction.all_emotions)}`);
    } catch (error) {
      const refusal = h("p", { class: "refusal", role: "alert" }, error.message);
      if (error.code) refusal.dataset.code = error.code;
      this.body.replaceChildren(refusal);
    }
    this.element.removeAttribute("aria-busy");
  }

  async #show({ prediction, variant, requestId }, request, known) {
    const { all_emotions: probabilities, segments, duration_s: duration } = prediction;
    this.about.textContent =
      `${duration.toFixed(1)} s · version ${prediction.model_version} (${variant}) · ` +
      `heard in ${prediction.timing_ms.total.toFixed(0)} ms`;
    const answer = new AnswerView(known);
    this.player = new Player(this.file.name);
    const timeline = new Timeline(known);
    const stage = stageOf(this.player, timeline, timelineTable(segments, named));
    const more = h("div", { class: "more" });
    const compare = () => whileBusy(button, async () => more.replaceChildren(await comparison(this.file, this.gone.signal)));
    const button = h("button", { type: "button", class: "quiet", onclick: compare }, "Compare versions");
    const actions = h("div", { class: "actions" }, button, snippetRow({ curl: asCurl(request), Python: asPython(request) }));
    this.body.replaceChildren(
      h("div", { class: "split" }, answer.element, stage),
      feedbackRow(known, probabilities, requestId),
      actions,
      more,
    );
    answer.show(probabilities);
    timeline.showSegments(segments, duration);
    try {
      await this.player.load(this.file, this.gone.signal);
    } catch (error) {
      const why = error instanceof Refused ? `It cannot be played now: ${error.message}` : "This browser cannot play the file.";
      this.player.wave.replaceWith(h("p", { class: "muted" }, `${why} The answer stands.`));
    }
  }
}
