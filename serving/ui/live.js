// The microphone, live: probabilities while somebody speaks, utterances when they pause, the recording at the end.

import { AnswerView, named } from "./answer.js";
import { Conversation } from "./conversation.js";
import { clock, h, percent, say, whileBusy } from "./dom.js";
import { feedbackRow } from "./feedback.js";
import { NoMicrophone, openMicrophone } from "./microphone.js";
import { Player, stageOf } from "./player.js";
import { snippetRow, streamAsPython } from "./snippets.js";
import { labels, threshold } from "./state.js";
import { Timeline } from "./timeline.js";
import { wav } from "./wav.js";

const SHOWN_S = 20; // of the timeline, while it grows

export async function openLive(place) {
  try {
    const view = new LiveView(await labels());
    place.append(view.element);
  } catch (error) {
    place.append(h("p", { class: "refusal", role: "alert" }, error.message));
  }
}

class LiveView {
  constructor(known) {
    this.labels = known;
    this.button = h("button", { type: "button", class: "button primary talk", onclick: () => this.#press() }, "Start listening");
    this.status = h("p", { class: "status", role: "status" }, "Nothing is recorded until you start.");
    this.level = h("span", { class: "level-fill" });
    this.place = h("div", { class: "stack" });
    const controls = h("div", { class: "controls" }, this.button, h("span", { class: "level", "aria-hidden": "true" }, this.level), this.status);
    this.element = h("div", { class: "card" }, controls, this.place);
  }

  #press() {
    return whileBusy(this.button, () => (this.session ? this.#stop() : this.#start()));
  }

  async #start() {
    this.player?.close();
    this.session = new Session(this.labels);
    this.place.replaceChildren(this.session.element);
    try {
      await this.session.open((level) => (this.level.style.width = `${100 * level}%`));
    } catch (error) {
      this.session = undefined;
      this.place.replaceChildren();
      if (!(error instanceof NoMicrophone)) throw error;
      this.status.replaceChildren(h("span", { class: "refusal" }, error.message));
      return;
    }
    this.button.textContent = "Stop";
    this.button.classList.add("on");
    this.status.textContent = "Listening. Talk.";
    const { session } = this;
    session.over.then(() => this.session === session && this.#stop()); // the service may end it too
  }

  async #stop() {
    const { session } = this;
    this.session = undefined;
    const problem = await session.close();
    this.level.style.width = "0";
    this.button.textContent = "Start again";
    this.button.classList.remove("on");
    const count = session.utterances;
    this.status.textContent = problem ?? (count ? `${count} utterance${count > 1 ? "s" : ""} heard.` : "No speech was heard.");
    this.player = await session.showRecording();
  }
}

/** From start to stop: what was sent, what was answered. */
class Session {
  constructor(known) {
    this.labels = known;
    this.frames = [];
    this.rows = [];
    this.utterances = 0;
    this.answer = new AnswerView(known, "…");
    this.timeline = new Timeline(known, { stepped: false });
    this.list = h("ol", { class: "utterances", "aria-label": "Utterances" });
    this.about = h("p", { class: "muted about" });
    this.stage = h("div", { class: "stage" }, this.timeline.element, this.timeline.readout);
    this.element = h("div", { class: "split" }, h("div", {}, this.answer.element, this.about), h("div", {}, this.stage, this.list));
    this.timeline.show([], [0, SHOWN_S]);
  }

  async open(onLevel) {
    this.microphone = await openMicrophone((frame) => {
      this.frames.push(frame);
      this.talk?.send(frame);
      onLevel(levelOf(frame));
      this.#draw();
    });
    this.talk = new Conversation(this.microphone.rateHz, threshold.value, (message) => this.#hear(message));
    this.over = this.talk.over;
  }

  /** Stops, waits for what is still to be said, and returns why it ended where that was not asked for. */
  async close() {
    await this.microphone.stop();
    this.talk.end();
    return this.over;
  }

  /** The whole recording, to be played again and kept. */
  async showRecording() {
    const file = wav(this.frames, this.microphone.rateHz);
    this.length = this.#heardFor();
    this.#draw();
    if (!this.frames.length) return undefined;
    const player = new Player("the recording");
    const link = h("a", { class: "quiet keep", href: URL.createObjectURL(file), download: file.name }, "Keep as WAV");
    const copies = snippetRow({ Python: streamAsPython({ name: file.name, url: this.talk.url }) });
    this.stage.replaceWith(stageOf(player, this.timeline, h("div", { class: "actions" }, link, copies)));
    await player.load(file);
    for (const button of this.list.querySelectorAll("button.replay")) {
      button.disabled = false;
      button.addEventListener("click", () => player.play(Number(button.dataset.start), Number(button.dataset.end)));
    }
    return player;
  }

  #hear(message) {
    switch (message.type) {
      case "session":
        this.about.textContent = `version ${message.model_version} listens`;
        break;
      case "utterance.start":
        this.timeline.marks.push({ start: message.start_s, end: null, name: String(message.utterance) });
        this.rows.push({ at: message.start_s, probabilities: null });
        break;
      case "measurement":
        this.answer.show(message.all_emotions);
        this.#measured(message);
        break;
      case "utterance.end":
        this.#end(message);
        break;
      case "error":
        this.list.append(h("li", { class: "refusal" }, message.error.message));
        break;
    }
    this.#draw();
  }

  #measured({ utterance, end_s, all_emotions }) {
    const mark = this.timeline.marks.find((each) => each.name === String(utterance));
    // What the first measurement heard began with the utterance.
    if (mark && this.rows.at(-1)?.probabilities === null) this.rows.push({ at: mark.start + 1e-3, probabilities: all_emotions });
    this.rows.push({ at: end_s, probabilities: all_emotions });
  }

  #end({ utterance, start_s, end_s, start_sample, end_sample, prediction, request_id }) {
    this.utterances += 1;
    const mark = this.timeline.marks.find((each) => each.name === String(utterance));
    if (mark) mark.end = end_s;
    // The end is known a pause later, and what was measured in the pause is no part of it.
    this.rows = this.rows.filter((row) => row.at < end_s);
    this.rows.push({ at: end_s, probabilities: this.rows.at(-1)?.probabilities ?? null }, { at: end_s + 1e-3, probabilities: null });
    this.answer.show(prediction.all_emotions);
    const word = h("strong", {});
    const show = () => (word.textContent = named(prediction.all_emotions));
    addEventListener("threshold", show);
    show();
    const replay = h(
      "button",
      { type: "button", class: "quiet replay", disabled: true, "data-start": start_s, "data-end": end_s, "aria-label": `Replay utterance ${utterance}` },
      "▶",
    );
    const line = h("p", {}, replay, ` ${clock(start_s)} to ${clock(end_s)} `, word, ` ${percent(prediction.confidence)}`);
    this.list.append(
      h("li", { "data-start-sample": start_sample, "data-end-sample": end_sample }, line, feedbackRow(this.labels, prediction.all_emotions, request_id)),
    );
    say(`Utterance ${utterance}: ${word.textContent}`);
  }

  #heardFor() {
    return this.frames.reduce((sum, frame) => sum + frame.byteLength, 0) / 2 / this.microphone.rateHz;
  }

  /** The newest seconds while it grows, all of it when it is over. */
  #draw() {
    const until = this.length ?? this.#heardFor();
    const from = this.length ? 0 : Math.max(0, until - SHOWN_S);
    this.timeline.show(this.rows, [from, this.length ?? Math.max(SHOWN_S, until)]);
  }
}

/** How loud a frame is, from 0 (-60 dBFS or less) to 1 (full scale). */
function levelOf(frame) {
  const samples = new Int16Array(frame);
  const power = samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length / 32768 ** 2;
  return Math.max(0, 1 + (10 * Math.log10(power + 1e-12)) / 60);
}
