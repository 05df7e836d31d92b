// A waveform that can be played: wavesurfer.js with a button, and keys for those without a pointer. Whoever makes one puts
// its `wave` and its `controls` where they belong.

import { playable } from "./api.js";
import { clock, colour, h, onTheme } from "./dom.js";
import WaveSurfer from "./vendor/wavesurfer.esm.js";

const NONCE = document.querySelector("meta[name=style-nonce]").content;
const STEP_S = 0.5;
const colours = () => ({ waveColor: colour("--wave"), progressColor: colour("--accent"), cursorColor: colour("--ink") });

export class Player {
  /** @param name what is played, for a screen reader */
  constructor(name) {
    this.wave = h("div", {
      class: "wave",
      role: "slider",
      tabindex: "0",
      "aria-label": `Position in ${name}`,
      "aria-valuemin": "0",
      "aria-valuemax": "0",
      "aria-valuenow": "0",
      onkeydown: (event) => this.#press(event),
    });
    this.button = h("button", { type: "button", class: "play", disabled: true, onclick: () => this.surfer.playPause() });
    this.time = h("span", { class: "time muted" }, clock(0));
    this.controls = h("div", { class: "controls" }, this.button, this.time);
    this.surfer = WaveSurfer.create({
      container: this.wave,
      height: 64,
      barWidth: 2,
      barGap: 1,
      barRadius: 2,
      normalize: true,
      dragToSeek: true,
      cspNonce: NONCE,
      ...colours(),
    });
    this.surfer.on("play", () => this.#showButton(name));
    this.surfer.on("pause", () => this.#showButton(name));
    this.surfer.on("timeupdate", (seconds) => this.#showTime(seconds));
    this.surfer.on("interaction", (seconds) => this.seek(seconds));
    this.#showButton(name);
    onTheme(() => this.surfer.setOptions(colours()));
  }

  /**
   * Draws a recording and makes it playable; what this browser cannot decode, the service does.
   *
   * @throws Refused where that fails too
   */
  async load(file, signal) {
    try {
      await isPlayable(file);
      await this.surfer.loadBlob(file);
    } catch {
      await this.surfer.loadBlob(await playable(file, signal));
    }
    this.button.disabled = false;
    this.wave.setAttribute("aria-valuemax", this.surfer.getDuration().toFixed(1));
    this.#showTime(0);
  }

  onTime(callback) {
    this.surfer.on("timeupdate", callback);
  }

  seek(seconds) {
    const to = Math.min(Math.max(seconds, 0), this.surfer.getDuration());
    this.surfer.setTime(to);
    const media = this.surfer.getMediaElement();
    // wavesurfer.js forgets a seek that is asked for before the one ahead of it has begun: a held key lost steps.
    if (media.currentTime !== to) media.currentTime = to;
  }

  /** From here to there. */
  play(from, to) {
    this.surfer.play(from, to);
  }

  close() {
    this.surfer.destroy();
  }

  #press(event) {
    const now = this.surfer.getCurrentTime();
    const to = {
      ArrowLeft: now - STEP_S,
      ArrowDown: now - STEP_S,
      ArrowRight: now + STEP_S,
      ArrowUp: now + STEP_S,
      Home: 0,
      End: this.surfer.getDuration(),
    }[event.key];
    if (to !== undefined) this.seek(to);
    else if (event.key === " ") this.button.click();
    else return;
    event.preventDefault();
  }

  #showButton(name) {
    const playing = this.surfer.isPlaying();
    this.button.setAttribute("aria-label", `${playing ? "Pause" : "Play"} ${name}`);
    this.button.classList.toggle("playing", playing);
  }

  #showTime(seconds) {
    const whole = this.surfer.getDuration();
    this.time.textContent = `${clock(seconds)} / ${clock(whole)}`;
    this.wave.setAttribute("aria-valuenow", seconds.toFixed(1));
    this.wave.setAttribute("aria-valuetext", `${seconds.toFixed(1)} of ${whole.toFixed(1)} seconds`);
  }
}

/** Settles when this browser has read the file's head, or fails: wavesurfer.js would wait for ever. */
function isPlayable(file) {
  return new Promise((resolve, reject) => {
    const probe = new Audio();
    probe.preload = "metadata";
    probe.onloadedmetadata = resolve;
    probe.onerror = reject;
    // Not revoked: it may still be read from, and keeps no more than a name of the file.
    probe.src = URL.createObjectURL(file);
  });
}

/** Waveform and timeline with common edges, in step: pressing on either moves both. */
export function stageOf(player, timeline, ...below) {
  timeline.onSeek((seconds) => player.seek(seconds));
  player.onTime((seconds) => timeline.playAt(seconds));
  player.controls.append(timeline.readout);
  return h("div", { class: "stage" }, player.wave, timeline.element, player.controls, ...below);
}
