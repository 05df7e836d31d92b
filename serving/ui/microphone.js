// The microphone as frames of 16-bit samples.

const MAX_RATE_HZ = 48000; // live audio has no more; a sound card may

// Nothing that a call would do to a voice: the model learned from recordings as they are.
const AS_IT_IS = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };

const REASONS = {
  NotAllowedError: "The microphone was refused. Allow it for this page in the browser’s address bar, then press again.",
  NotFoundError: "No microphone was found. Connect one, then press again.",
  NotReadableError: "The microphone cannot be opened: another program may be using it.",
};

/** Why there are no frames, in words for whoever pressed the button. */
export class NoMicrophone extends Error {}

/**
 * Opens the microphone.
 *
 * @param onFrame is given an ArrayBuffer of about 100 ms
 * @returns `rateHz`, and `stop()`
 * @throws NoMicrophone
 */
export async function openMicrophone(onFrame) {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new NoMicrophone("The browser gives no microphone to this page: it does so over https, or on localhost, alone.");
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: AS_IT_IS });
  } catch (error) {
    throw new NoMicrophone(REASONS[error.name] ?? `The microphone cannot be opened: ${error.message}.`);
  }
  const close = () => stream.getTracks().forEach((track) => track.stop());
  try {
    const context = await framing(stream, onFrame);
    return {
      rateHz: context.sampleRate,
      async stop() {
        close();
        await context.close();
      },
    };
  } catch (error) {
    close();
    throw new NoMicrophone(`The browser cannot read the microphone: ${error.message}.`);
  }
}

/** The stream's way into the worklet, at the sound card's own rate where that is not too high. */
async function framing(stream, onFrame) {
  let context = new AudioContext();
  if (context.sampleRate > MAX_RATE_HZ) {
    await context.close();
    context = new AudioContext({ sampleRate: MAX_RATE_HZ });
  }
  await context.audioWorklet.addModule("ui/worklet.js");
  const frames = new AudioWorkletNode(context, "frames", { numberOfOutputs: 0 });
  frames.port.onmessage = ({ data }) => onFrame(data);
  context.createMediaStreamSource(stream).connect(frames);
  return context;
}
