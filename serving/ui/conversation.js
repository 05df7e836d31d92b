// One live stream to /v1/listen: frames go, messages come.

import { listenUrl } from "./api.js";

const HOP_S = 0.25; // between two measurements: what is seen moves within half a second
const CLOSED = "The connection to the service was lost.";

/** Frames may be sent before the service has accepted the stream; they wait here. */
export class Conversation {
  #socket;
  #early = [];
  #ended = false;

  /** @param onMessage is given each message as /v1/listen sends it */
  constructor(rateHz, minConfidence, onMessage) {
    this.url = listenUrl({ rate_hz: rateHz, hop_s: HOP_S, min_confidence: minConfidence }).href;
    this.#socket = new WebSocket(this.url);
    this.#socket.addEventListener("open", () => {
      for (const each of this.#early.splice(0)) this.#socket.send(each);
    });
    /** Settles when everything has been said: with why it ended early, or with nothing. */
    this.over = new Promise((resolve) => {
      let refused;
      this.#socket.addEventListener("message", ({ data }) => {
        const message = JSON.parse(data);
        if (message.type === "error" && message.utterance == null) refused = message.error.message;
        else onMessage(message);
      });
      this.#socket.addEventListener("close", ({ code }) => resolve(refused ?? (code === 1000 ? undefined : CLOSED)));
    });
  }

  send(frame) {
    if (!this.#ended) this.#pass(frame);
  }

  /** No more frames come; what was begun is still answered. */
  end() {
    if (!this.#ended) this.#pass(JSON.stringify({ type: "end" }));
    this.#ended = true;
  }

  #pass(what) {
    if (this.#socket.readyState === WebSocket.CONNECTING) this.#early.push(what);
    else if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(what);
  }
}
