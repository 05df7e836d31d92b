// The service's public paths, asked as any client asks them.

/** A refusal: the service's own code word and message. */
export class Refused extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    options?.signal?.throwIfAborted();
    throw new Refused("unreachable", "The service cannot be reached. Is it still running?");
  }
  if (response.ok) return response;
  const error = (await response.json().catch(() => ({}))).error;
  throw new Refused(error?.code ?? "unexpected", error?.message ?? `The service answered ${response.status}.`);
}

/** `/predict` for one file: the answer, who gave it, and the id that `/feedback` takes. */
export async function predict(file, { version, minConfidence }, signal) {
  const body = new FormData();
  body.append("file", file, file.name);
  const headers = version ? { "X-Model-Version": version } : {};
  const query = minConfidence ? `?min_confidence=${minConfidence}` : "";
  const response = await ask(`predict${query}`, { method: "POST", body, headers, signal });
  return {
    prediction: await response.json(),
    variant: response.headers.get("X-Timbre-Variant"),
    requestId: response.headers.get("X-Request-ID"),
  };
}

export async function models() {
  return (await ask("models")).json();
}

/** The card and the figures of a loaded version. */
export async function report(version) {
  return (await ask(`ui/models/${encodeURIComponent(version)}`)).json();
}

export async function feedback(requestId, emotion) {
  const body = JSON.stringify({ request_id: requestId, emotion });
  return (await ask("feedback", { method: "POST", body, headers: { "Content-Type": "application/json" } })).json();
}

/** The file as the model hears it, in a format that every browser plays. */
export async function playable(file, signal) {
  const body = new FormData();
  body.append("file", file, file.name);
  return (await ask("ui/playable", { method: "POST", body, signal })).blob();
}

/** The address of `/v1/listen` with these parameters. */
export function listenUrl(parameters) {
  const url = new URL(`v1/listen?${new URLSearchParams(parameters)}`, document.baseURI);
  url.protocol = url.protocol.replace("http", "ws");
  url.hash = "";
  return url;
}
