// The same clip on every loaded version, side by side.

import { predict } from "./api.js";
import { judged } from "./answer.js";
import { emotionColour, h, percent } from "./dom.js";
import { asCurl, asPython, snippetRow } from "./snippets.js";
import { loadedNow, threshold } from "./state.js";

/** What part a version has: "stable, 90 % of the traffic, answers by default". */
export function rolesOf(told, version) {
  const whole = Object.values(told.variants).reduce((sum, variant) => sum + variant.weight, 0);
  const roles = Object.entries(told.variants)
    .filter(([, variant]) => variant.version === version)
    .map(([name, variant]) => {
      const share = whole ? `, ${percent(variant.weight / whole)} of the traffic` : "";
      return `${name}${share}${name === told.default ? ", the default" : ""}`;
    });
  if (told.shadow?.version === version) roles.push(`shadow, hears ${told.shadow.percent} %`);
  return roles.join("; ") || "loaded";
}

/** A table with a column per version; a version that refuses says why in its own column. */
export async function comparison(file, signal) {
  let told;
  try {
    told = await loadedNow();
  } catch (error) {
    return h("p", { class: "refusal", role: "alert" }, error.message);
  }
  const minConfidence = threshold.value;
  const columns = await Promise.all(
    told.models.map(async ({ version, metadata }) => {
      try {
        const { prediction } = await predict(file, { version, minConfidence }, signal);
        return { version, labels: metadata.labels, prediction };
      } catch (error) {
        return { version, labels: metadata.labels, error };
      }
    }),
  );
  return h(
    "div",
    { class: "comparison" },
    h("h3", {}, "Every loaded version"),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Comparison of versions" }, table(told, columns)),
    columns.map(({ version }) => copies({ name: file.name, version, minConfidence })),
    columns.length > 1
      ? null
      : h("p", { class: "muted" }, "Only this version is loaded; a line in routes.yaml loads another, at no traffic too."),
  );
}

/** The request that pinned this version. */
function copies(request) {
  const name = `Version ${request.version}`;
  const row = snippetRow({ curl: asCurl(request), Python: asPython(request) });
  return h("div", { class: "actions copies", role: "group", "aria-label": `Request to ${name.toLowerCase()}` }, h("span", { class: "muted" }, name), row);
}

function table(told, columns) {
  const labels = [...new Set(columns.flatMap((column) => column.labels))];
  const heads = columns.map(({ version }) =>
    h("th", { scope: "col" }, `Version ${version}`, h("span", { class: "role" }, rolesOf(told, version))),
  );
  const answers = h("tr", { class: "answers" }, h("th", { scope: "row" }, "Answer"), columns.map((column) => answerCell(column)));
  addEventListener("threshold", () =>
    answers.replaceChildren(answers.firstChild, ...columns.map((column) => answerCell(column))),
  );
  const rows = labels.map((label) =>
    h("tr", {}, h("th", { scope: "row" }, label), columns.map((column) => shareCell(column, label))),
  );
  const times = columns.map(({ prediction }) => h("td", {}, prediction ? `${prediction.timing_ms.inference.toFixed(1)} ms` : ""));
  const body = h("tbody", {}, answers, rows, h("tr", {}, h("th", { scope: "row" }, "Inference"), times));
  return h("table", {}, h("thead", {}, h("tr", {}, h("td", {}), heads)), body);
}

function answerCell({ version, prediction, error }) {
  if (error) return h("td", { class: "refusal", "data-version": version }, error.message);
  const best = judged(prediction.all_emotions);
  const cell = h("td", { "data-version": version }, h("strong", {}, best.sure ? best.emotion : "not sure"));
  cell.append(` ${percent(best.confidence)}`);
  return cell;
}

function shareCell({ labels, prediction }, label) {
  const share = prediction?.all_emotions[label];
  if (share === undefined) return h("td", {}, "");
  const fill = h("span", { class: "bar-fill" });
  fill.style.width = `${100 * share}%`;
  fill.style.background = `var(${emotionColour(labels.indexOf(label))})`;
  return h("td", {}, h("span", { class: "cell-bar" }, h("span", { class: "bar" }, fill), percent(share)));
}
