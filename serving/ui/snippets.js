// The request just made, as others would make it.

import { h, say } from "./dom.js";

/** For a shell: everything but the plainest names in single quotes. */
const shell = (word) => (/^[\w./:=@-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

/** For Python: JSON's strings are Python's, but for what lies beyond the basic plane. */
const python = (word) => JSON.stringify(word);

/** Whoever copies a request brings a key of their own: the page does not know the browser's, and would not tell it. */
const NEEDS_KEY = document.querySelector("meta[name=api-keys]").content === "on";
const KEY = { name: "X-API-Key", variable: "TIMBRE_API_KEY" };
const PYTHON_KEY = `"${KEY.name}": os.environ["${KEY.variable}"]`;

/** The address of `/predict` as it was asked. */
const address = () => new URL("predict", document.baseURI).href.split("#")[0];

export function asCurl({ name, version, minConfidence }) {
  const url = address() + (minConfidence ? `?min_confidence=${minConfidence}` : "");
  const pin = version ? ` -H ${shell(`X-Model-Version: ${version}`)}` : "";
  // Within -F a name with a quote, a comma or a semicolon stands in double quotes of curl's own.
  const file = /[",;\\]/.test(name) ? `"${name.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"` : name;
  const key = NEEDS_KEY ? ` -H "${KEY.name}: $${KEY.variable}"` : "";
  return `curl -F ${shell(`file=@${file}`)}${pin}${key} ${shell(url)}`;
}

export function asPython({ name, version, minConfidence }) {
  const headers = [version && `"X-Model-Version": ${python(version)}`, NEEDS_KEY && PYTHON_KEY].filter(Boolean);
  const options = [
    minConfidence ? `params={"min_confidence": ${minConfidence}}` : "",
    headers.length ? `headers={${headers.join(", ")}}` : "",
  ].filter(Boolean);
  return [
    ...(NEEDS_KEY ? ["import os", ""] : []),
    "import httpx",
    "",
    `with open(${python(name)}, "rb") as clip:`,
    `    answer = httpx.post(${[python(address()), ...options, 'files={"file": clip}'].join(", ")})`,
    "print(answer.json())",
    "",
  ].join("\n");
}

/** The live stream once more, from the recording of it. */
export function streamAsPython({ name, url }) {
  const headers = NEEDS_KEY ? `, additional_headers={${PYTHON_KEY}}` : "";
  return `import asyncio, json, ${NEEDS_KEY ? "os, " : ""}wave

import websockets


async def main():
    with wave.open(${python(name)}) as recording:
        async with websockets.connect(${python(url)}${headers}) as stream:

            async def talk():
                while frame := recording.readframes(recording.getframerate() // 10):
                    await stream.send(frame)
                await stream.send(json.dumps({"type": "end"}))

            talking = asyncio.create_task(talk())  # frames go while messages come
            async for message in stream:
                print(message)
            await talking


asyncio.run(main())
`;
}

/**
 * Buttons that put a request into the clipboard, or where there is none, under themselves to be copied by hand.
 *
 * @param texts by what each is for, such as curl
 */
export function snippetRow(texts) {
  const shown = h("pre", { class: "snippet", tabindex: "0", hidden: true });
  const copy = async (text, what) => {
    shown.textContent = text;
    shown.hidden = false;
    try {
      await navigator.clipboard.writeText(text);
      say(`${what} copied`);
      copied.textContent = "Copied";
    } catch {
      say(`${what} shown; the browser does not let the page copy it`);
      copied.textContent = "Select it to copy";
    }
  };
  const copied = h("span", { class: "muted" });
  return h(
    "div",
    { class: "snippets" },
    Object.entries(texts).map(([what, text]) =>
      h("button", { type: "button", class: "quiet", onclick: () => copy(text, what) }, `Copy as ${what}`),
    ),
    copied,
    shown,
  );
}
