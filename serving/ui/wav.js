// Frames of 16-bit mono samples as a WAV file (Multimedia Programming Interface and Data Specifications 1.0, IBM and Microsoft, 1991).

const HEADER_BYTES = 44;

/** @param frames ArrayBuffers of little-endian samples */
export function wav(frames, rateHz) {
  const bytes = frames.reduce((sum, frame) => sum + frame.byteLength, 0);
  const header = new DataView(new ArrayBuffer(HEADER_BYTES));
  const text = (at, word) => [...word].forEach((letter, n) => header.setUint8(at + n, letter.charCodeAt(0)));
  text(0, "RIFF");
  header.setUint32(4, HEADER_BYTES - 8 + bytes, true);
  text(8, "WAVEfmt ");
  header.setUint32(16, 16, true); // bytes of the format that follows
  header.setUint16(20, 1, true); // PCM
  header.setUint16(22, 1, true); // channels
  header.setUint32(24, rateHz, true);
  header.setUint32(28, 2 * rateHz, true); // bytes a second
  header.setUint16(32, 2, true); // bytes of a sample of all channels
  header.setUint16(34, 16, true); // bits
  text(36, "data");
  header.setUint32(40, bytes, true);
  return new File([header, ...frames], "recording.wav", { type: "audio/wav" });
}
