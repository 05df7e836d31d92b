// Emotions over time: a chart of probabilities stacked to one, which a clip shows whole and live audio lets grow. Its
// `readout` says what is under the pointer or the playhead.

import { clock, colour, emotionColour, h, onTheme, percent } from "./dom.js";

const { uPlot } = globalThis; // vendor/uPlot.iife.min.js, loaded before any module runs
const HEIGHT = 112;
const LABEL = 36; // how wide the longest label of its axis is
const MARKS = 18; // of it, for the utterances' numbers

export class Timeline {
  /**
   * @param labels names of the emotions, in the model's order
   * @param stepped whether a value holds until the next one, as that of a window does
   */
  constructor(labels, { stepped = true } = {}) {
    this.labels = labels;
    this.range = [0, 1];
    this.marks = []; // utterances: {start, end, name}
    this.rows = []; // {at, probabilities} by time; null where nobody speaks
    this.playhead = h("div", { class: "playhead", hidden: true });
    this.readout = h("p", { class: "readout muted" }, "\u00a0");
    this.chart = h("div", { class: "chart", role: "img", "aria-label": "Emotions over time" });
    this.element = h("div", { class: "timeline" }, this.chart, this.playhead);
    this.plot = new uPlot(this.#options(stepped), [[], ...labels.map(() => [])], this.chart);
    new ResizeObserver(([entry]) => this.#resize(Math.floor(entry.contentRect.width))).observe(this.chart);
    onTheme(() => this.plot.redraw());
  }

  /** A clip's segments, which overlap: between two edges stands the mean of the windows that cover it. */
  showSegments(segments, duration) {
    const edges = [...new Set([0, duration, ...segments.flatMap((each) => [each.start_s, each.end_s])])].sort((a, b) => a - b);
    const rows = edges.slice(0, -1).map((edge, n) => {
      const middle = (edge + edges[n + 1]) / 2;
      const covering = segments.filter((each) => each.start_s <= middle && middle < each.end_s);
      return { at: edge, probabilities: covering.length ? this.#mean(covering) : null };
    });
    this.show([...rows, { at: duration, probabilities: rows.at(-1)?.probabilities ?? null }], [0, duration]);
    const told = rows.filter((row) => row.probabilities).map((row) => `from ${clock(row.at)} ${this.#told(row, 1)}`);
    this.chart.setAttribute("aria-label", `Emotions over time: ${told.join("; ")}`);
  }

  /** Rows by time within a range of seconds. */
  show(rows, range) {
    this.rows = rows;
    this.range = range;
    this.element.dataset.rows = rows.length;
    let below = rows.map((row) => row.probabilities && 0);
    const stacked = this.labels.map((label) => {
      below = rows.map((row, n) => row.probabilities && below[n] + (row.probabilities[label] ?? 0));
      return below;
    });
    // The whole stack first, then what lies lower over it.
    this.plot.setData([rows.map((row) => row.at), ...stacked.reverse()]);
  }

  /** Where playback is; null for nowhere. */
  playAt(seconds) {
    this.playhead.hidden = seconds === null;
    if (seconds === null) return;
    const [from, to] = this.range;
    this.playhead.style.left = `${(100 * (seconds - from)) / (to - from)}%`;
    this.#tell(seconds);
  }

  /** Calls back with the time that is pressed on. */
  onSeek(callback) {
    this.plot.over.addEventListener("click", () => callback(this.plot.posToVal(this.plot.cursor.left, "x")));
  }

  #mean(segments) {
    const mean = (label) => segments.reduce((sum, each) => sum + each.all_emotions[label], 0) / segments.length;
    return Object.fromEntries(this.labels.map((label) => [label, mean(label)]));
  }

  #told(row, most) {
    const sorted = Object.entries(row.probabilities).sort((a, b) => b[1] - a[1]);
    return sorted.slice(0, most).map(([label, share]) => `${label} ${percent(share)}`).join(", ");
  }

  #tell(seconds) {
    const row = this.rows.findLast((each) => each.at <= seconds);
    const what = row?.probabilities ? this.#told(row, 3) : "nobody speaks";
    this.readout.textContent = `${clock(Math.max(0, seconds))} · ${what}`;
  }

  #resize(width) {
    if (width > 0 && width !== this.plot.width) this.plot.setSize({ width, height: HEIGHT });
  }

  /** Whether a label there, in a chart so wide, would not be cut off by its edge. */
  #hasRoom(at, width) {
    const [from, to] = this.range;
    return Math.min(at - from, to - at) * width >= (LABEL / 2) * (to - from);
  }

  #options(stepped) {
    const last = this.labels.length - 1;
    const series = this.labels.map((label, n) => ({
      label,
      width: 0,
      points: { show: false },
      fill: () => colour(emotionColour(last - n)),
      paths: stepped ? uPlot.paths.stepped({ align: 1 }) : uPlot.paths.linear(),
    }));
    return {
      width: 300,
      height: HEIGHT,
      legend: { show: false },
      padding: [stepped ? 0 : MARKS, 0, 0, 0],
      cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
      scales: { x: { time: false, range: () => this.range }, y: { range: [0, 1] } },
      series: [{}, ...series],
      axes: [
        {
          size: 22,
          gap: 4,
          space: 70,
          font: "11px system-ui, sans-serif",
          stroke: () => colour("--muted"),
          grid: { show: false },
          ticks: { show: false },
          values: (plot, at) => at.map((each) => (this.#hasRoom(each, plot.width) ? `${+each.toFixed(2)} s` : "")),
        },
        { show: false },
      ],
      hooks: {
        draw: [(plot) => this.#drawMarks(plot)],
        setCursor: [(plot) => plot.cursor.left >= 0 && this.#tell(plot.posToVal(plot.cursor.left, "x"))],
      },
    };
  }

  /** Above each utterance its number, and a line as long as it lasts. */
  #drawMarks(plot) {
    const { ctx, bbox } = plot;
    const pixel = devicePixelRatio;
    ctx.save();
    ctx.fillStyle = colour("--ink");
    ctx.font = `600 ${11 * pixel}px system-ui, sans-serif`;
    ctx.textBaseline = "bottom";
    const marked = [];
    for (const { start, end, name } of this.marks) {
      const inside = (at) => Math.min(Math.max(plot.valToPos(at, "x", true), bbox.left), bbox.left + bbox.width);
      const [left, right] = [inside(start), inside(end ?? this.rows.at(-1)?.at ?? start)];
      if (left === right) continue;
      ctx.fillRect(left, bbox.top - 3 * pixel, right - left, 2 * pixel);
      ctx.fillText(name, left, bbox.top - 4 * pixel);
      marked.push([name, start, end ?? ""].join(":"));
    }
    this.element.dataset.marked = marked.join(" "); // what a canvas shows, nobody else can read
    ctx.restore();
  }
}

/** The same for those who would rather read. */
export function timelineTable(segments, named) {
  const cells = (each) => [`${clock(each.start_s)} to ${clock(each.end_s)}`, named(each.all_emotions), percent(each.confidence)];
  const body = () => segments.map((each) => h("tr", {}, cells(each).map((cell) => h("td", {}, cell))));
  const rows = h("tbody", {}, body());
  addEventListener("threshold", () => rows.replaceChildren(...body()));
  const head = h("tr", {}, ["Window", "Emotion", "Probability"].map((name) => h("th", { scope: "col" }, name)));
  return h("details", {}, h("summary", {}, "Timeline as a table"), h("table", {}, h("thead", {}, head), rows));
}
