// What a version says of itself: what it is for and what not, how it did in its exam, its card.

import { report } from "./api.js";
import { rolesOf } from "./compare.js";
import { colour, h, onTheme, percent } from "./dom.js";
import { loadedNow, standing } from "./state.js";

const { uPlot } = globalThis;
const FIRST = "What it is for, and what not"; // the card's words, which stand before all figures
const score = (value) => (value == null ? "–" : value.toFixed(3));

export async function openModel(place) {
  try {
    const told = await loadedNow();
    const view = h("div", { class: "stack" });
    const pick = (model) => async () => {
      for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.version === model.version));
      view.replaceChildren(...(await describe(model)));
    };
    const buttons = told.models.map((model) =>
      h("button", { type: "button", class: "choice", "data-version": model.version, onclick: pick(model) },
        `Version ${model.version}`, h("span", { class: "role" }, rolesOf(told, model.version))),
    );
    place.append(h("div", { class: "choices", role: "group", "aria-label": "Version" }, buttons), view);
    await pick(standing(told))();
  } catch (error) {
    place.append(h("p", { class: "refusal", role: "alert" }, error.message));
  }
}

async function describe({ version, metadata }) {
  const { card, figures, folds } = await report(version);
  const first = card.find((section) => section.title === FIRST);
  return [
    terms(first, metadata),
    headline(metadata, figures),
    figures && h("div", { class: "pair" }, confusion(metadata.labels, figures.confusion), reliability(figures.calibration)),
    actors(metadata, figures, folds),
    cardOf(card.filter((section) => section !== first)),
  ].filter(Boolean);
}

/** HTML that the service has made of a card, with no HTML of the card's own in it. */
function prose(html) {
  const element = h("div", { class: "prose" });
  element.innerHTML = html;
  for (const table of element.querySelectorAll("table")) table.replaceWith(scrolling("Figures", table.cloneNode(true)));
  return element;
}

const scrolling = (name, content) => h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": name }, content);

const panel = (title, ...content) => h("section", { class: "card" }, h("h2", {}, title), ...content);

function cardOf(sections) {
  const entries = sections.map(({ title, html }) => h("details", {}, h("summary", {}, title), prose(html)));
  return sections.length ? h("section", { class: "card entries" }, h("h2", {}, "Its card, in full"), ...entries) : null;
}

function terms(section, metadata) {
  return h(
    "section",
    { class: "card terms" },
    h("h2", {}, FIRST),
    section ? prose(section.html) : h("p", {}, "This version came without a card: nobody says what it is for."),
    h("p", {}, h("strong", {}, "Licence: "), metadata.licence ?? "not told"),
  );
}

function headline(metadata, figures) {
  const { bench } = metadata; // its recipe over all folds of actors: more voices than its own exam has
  const tiles = [
    ...(bench ? [["UAR to expect of a new voice", score(bench.uar), `± ${score(bench.uar_sd)}: its recipe over ${bench.folds} folds of actors, ${bench.clips} clips`]] : []),
    ["UAR, its own exam of unheard voices", score(figures?.uar), figures && `${score(figures.uar_interval[0])} to ${score(figures.uar_interval[1])}, 95 %, over clips alone`],
    ["Accuracy, the same", score(figures?.accuracy), figures && `${figures.clips} clips; chance is ${score(1 / metadata.labels.length)}`],
    ["Parameters", metadata.parameters ? `${(metadata.parameters / 1e6).toFixed(2)} M` : "–", [metadata.model, metadata.features].filter(Boolean).join(" over ")],
    ["Clips it learned from", metadata.training?.clips?.train ?? "–", metadata.training?.corpora?.join(", ")],
  ];
  return h("dl", { class: "tiles" }, tiles.map(([name, value, note]) =>
    h("div", { class: "tile" }, h("dt", {}, name), h("dd", {}, value, h("span", { class: "muted" }, note || "")))));
}

function confusion(labels, counts) {
  const head = h("tr", {}, h("th", { scope: "col" }, "was, heard as"), labels.map((label) => h("th", { scope: "col" }, h("span", {}, label))));
  const rows = counts.map((row, n) => {
    const whole = row.reduce((sum, count) => sum + count, 0);
    const cells = row.map((count, m) => {
      const cell = h("td", { class: n === m ? "right" : "" }, count ? String(count) : h("span", { class: "none" }, "0"));
      cell.style.setProperty("--share", whole ? count / whole : 0);
      return cell;
    });
    return h("tr", {}, h("th", { scope: "row" }, labels[n]), cells);
  });
  const table = h("table", { class: "confusion" }, h("caption", {}, "Clips of its exam: a row for what was expressed, a column for what was heard"), h("thead", {}, head), h("tbody", {}, rows));
  return panel("Confusion matrix", scrolling("Confusion matrix", table));
}

function reliability(calibration) {
  if (!calibration) return panel("Reliability", h("p", { class: "muted" }, "Not measured for this version."));
  const bins = calibration.bins.filter((bin) => bin.clips);
  const chart = h("div", { class: "chart reliability", role: "img", "aria-label": "Reliability diagram: the figures stand in the table below" });
  const plot = new uPlot(reliabilityOptions(bins), [[0, 1], [0, 1]], chart);
  new ResizeObserver(([entry]) => plot.setSize({ width: Math.floor(Math.min(entry.contentRect.width, 460)), height: 300 })).observe(chart);
  onTheme(() => plot.redraw());
  const rows = bins.map((bin) => h("tr", {}, [percent(bin.confidence), percent(bin.accuracy), String(bin.clips)].map((cell) => h("td", {}, cell))));
  const head = h("tr", {}, ["Said, on average", "Was right", "Clips"].map((name) => h("th", { scope: "col" }, name)));
  return panel(
    "Reliability",
    h("p", {}, `How often it was right, by how probable it had said that was. A disc’s area is its number of clips. On the line the two agree; on average they are ${percent(calibration.ece)} apart (expected calibration error).`),
    chart,
    h("details", {}, h("summary", {}, "Reliability as a table"), h("table", {}, h("thead", {}, head), h("tbody", {}, rows))),
  );
}

function reliabilityOptions(bins) {
  const axis = (label) => ({
    label, labelSize: 20, labelFont: "12px system-ui, sans-serif", font: "11px system-ui, sans-serif", size: 36,
    stroke: () => colour("--muted"), grid: { stroke: () => colour("--line"), width: 1 }, ticks: { show: false },
    values: (_, at) => at.map(percent),
  });
  return {
    width: 320, height: 300, legend: { show: false }, cursor: { show: false },
    scales: { x: { time: false, range: [0, 1] }, y: { range: [0, 1] } },
    axes: [axis("probability it gave"), axis("share that was right")],
    series: [{}, { width: 1, dash: [5, 5], stroke: () => colour("--muted"), points: { show: false } }],
    hooks: { draw: [(plot) => drawBins(plot, bins)] },
  };
}

/** A disc per bin, its area as its clips: a bin of one clip says little, and looks it. */
function drawBins(plot, bins) {
  const { ctx } = plot;
  ctx.save();
  ctx.fillStyle = colour("--accent");
  ctx.globalAlpha = 0.8;
  for (const { confidence, accuracy, clips } of bins) {
    ctx.beginPath();
    const radius = 2.2 * Math.sqrt(clips) * devicePixelRatio;
    ctx.arc(plot.valToPos(confidence, "x", true), plot.valToPos(accuracy, "y", true), radius, 0, 2 * Math.PI);
    ctx.fill();
  }
  ctx.restore();
}

function actors(metadata, figures, folds) {
  const parts = [];
  if (folds) {
    const own = recipeOf(metadata, folds);
    const head = h("tr", {}, h("th", { scope: "col" }, "Recipe"), h("th", { scope: "col" }, "Mean"), folds.actors.map((names, n) =>
      h("th", { scope: "col" }, `Fold ${n}`, h("span", { class: "role" }, names.length ? `actors ${names.join(", ")}; ${folds.clips[n]} clips` : "not run"))));
    const line = (name, found, mean, owned) =>
      h("tr", { class: owned ? "own" : "" }, h("th", { scope: "row" }, name), h("td", { class: "mean" }, mean), found.map((value) => h("td", {}, score(value))));
    const rows = Object.entries(folds.uar).map(([name, found]) =>
      line(name === own ? `${name} (its recipe)` : name, found, folds.mean[name].map(score).join(" ± "), name === own));
    rows.push(line(`version ${metadata.version}, its own exam`, ownExam(metadata, figures, folds), "", true));
    parts.push(
      h("p", {}, "UAR on the actors of each fold, whom the recipe then had not heard: how far speakers differ. A dash has not been run."),
      scrolling("Folds of actors", h("table", {}, h("thead", {}, head), h("tbody", {}, rows))),
    );
  }
  if (figures?.per_speaker) {
    // Sorted as text: JavaScript puts "17" before "08".
    const speakers = Object.entries(figures.per_speaker).sort(([one], [other]) => (one < other ? -1 : 1));
    const rows = speakers.map(([actor, row]) =>
      h("tr", {}, h("th", { scope: "row" }, `Actor ${actor}`), h("td", {}, score(row.uar)), h("td", {}, String(row.clips))));
    const head = h("tr", {}, ["Actors of its exam", "UAR", "Clips"].map((name) => h("th", { scope: "col" }, name)));
    parts.push(h("table", {}, h("thead", {}, head), h("tbody", {}, rows)));
  }
  return parts.length ? panel("By folds of actors", ...parts) : null;
}

/** The row of the bench whose very run became this version: such a run is named after its row and fold. */
function recipeOf(metadata, folds) {
  const row = metadata.training?.settings?.name?.replace(/-fold\d+$/, "");
  return row in folds.uar ? row : undefined;
}

/** The version's own figure under the fold whose actors it was examined on, where it was on those of one. */
function ownExam(metadata, figures, folds) {
  const examined = metadata.training?.speakers?.test?.toSorted().join();
  return folds.actors.map((actors) => (examined && actors.join() === examined ? figures?.uar : null));
}
