// A line chart drawn by uPlot, with a legend and a readout that mouse, touch and arrow keys move.

import { el, setText } from "./dom.js";
import { addTouch } from "./touch.js";
import uPlot from "./uplot.js";

const HEIGHT = 200;
const LABEL_WIDTH = 50; // of the labels of the y axis, at least
const LETTER_WIDTH = 7;
const SMOOTHED_FROM_POINTS = 60; // a shorter line is readable without smoothing
const COLORS = 4; // --line-0 and so on; then they repeat with other dashes
const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3]];

/**
 * Returns `{node, update(series, lastStep)}`; series: `[{name, kind, points: [[step, value]]}]`. A
 * series of kind "held-out" has dots. Instead of a kind, the series of several jobs have a `place` from 0
 * to 7, which decides the colour whether or not the others have points. Drag, pinch, or press + and -, to
 * zoom; the button, a double click or 0 resets.
 */
export function makeChart({ title, format, range, reference }) {
  const readout = el("output", { class: "readout" });
  const reset = el("button", { type: "button", class: "quiet reset-zoom", hidden: true });
  const legend = el("span", { class: "legend" });
  const box = el("div", { class: "chart", role: "img", tabindex: "0" });
  const node = el("figure", { class: "card" }, el("figcaption", {}, el("h3", {}, title), legend, reset), box, readout);
  let series = [];
  let plot = null;
  let shape = "";
  let lastStep = 1;

  function draw() {
    const width = box.clientWidth;
    if (!width || !series.length) return;
    const data = toColumns(series);
    const next = JSON.stringify(series.map((line) => [line.name, isSmooth(line)]));
    if (plot && next === shape) {
      plot.setData(data, false);
      if (reset.hidden) showAll();
      else plot.redraw();
      return;
    }
    plot?.destroy();
    shape = next;
    plot = new uPlot(options(width), data, box);
  }

  function showAll() {
    plot?.setScale("x", { min: 0, max: lastStep });
  }

  function showZoom(u, scale) {
    if (scale !== "x") return;
    const { min, max } = u.scales.x;
    const isAll = min <= 0 && max >= lastStep;
    if (isAll && document.activeElement === reset) box.focus();
    reset.hidden = isAll;
    setText(reset, `Reset zoom (steps ${Math.ceil(min)} to ${Math.floor(max)})`);
  }

  /** Shows fewer steps around the cursor, or more. */
  function zoom(factor) {
    const { min, max } = plot.scales.x;
    const middle = plot.cursor.left >= 0 ? plot.posToVal(plot.cursor.left, "x") : (min + max) / 2;
    const half = Math.max(((max - min) * factor) / 2, 0.5);
    if (2 * half >= lastStep) return showAll();
    const from = Math.min(Math.max(middle - half, 0), lastStep - 2 * half);
    return plot.setScale("x", { min: from, max: from + 2 * half });
  }

  function options(width) {
    const color = (name) => getComputedStyle(box).getPropertyValue(name).trim();
    const axis = { stroke: color("--muted"), grid: { stroke: color("--edge"), width: 1 }, ticks: { show: false } };
    return {
      width,
      height: HEIGHT,
      legend: { show: false },
      cursor: { y: false, points: { size: 8 } },
      scales: { x: { time: false, min: 0, max: lastStep }, y: { range: (_, low, high) => range ?? extent(low, high, reference) } },
      axes: [
        { ...axis, size: 28, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 1e4, 1e5, 1e6] },
        { ...axis, size: (_, labels) => widthOf(labels), values: (_, ticks) => labelsOf(ticks, format) },
      ],
      series: [{}, ...series.flatMap((line) => styles(line, color))],
      hooks: { setCursor: [read], setScale: [showZoom], drawAxes: [(u) => drawReference(u, color)] },
    };
  }

  function drawReference(u, color) {
    if (!reference) return;
    const y = u.valToPos(reference.value, "y", true);
    if (y < u.bbox.top || y > u.bbox.top + u.bbox.height) return;
    const { ctx } = u;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = color("--muted");
    ctx.setLineDash([4, 4]);
    ctx.beginPath();
    ctx.moveTo(u.bbox.left, y);
    ctx.lineTo(u.bbox.left + u.bbox.width, y);
    ctx.stroke();
    ctx.textAlign = "right";
    ctx.fillText(reference.name, u.bbox.left + u.bbox.width, y - 5);
    ctx.restore();
  }

  function read(u) {
    const { idx } = u.cursor;
    if (idx === null || idx === undefined) return setText(readout, "");
    const step = u.data[0][idx];
    const here = series.map((line) => [line, line.points.find(([at]) => at === step)]).filter(([, point]) => point);
    return setText(readout, `Step ${step}: ${here.map(([line, [, value]]) => `${line.name} ${format(value)}`).join(", ")}`);
  }

  function moveTo(index) {
    const left = plot.valToPos(plot.data[0][index], "x");
    plot.setCursor({ left, top: plot.bbox.height / (2 * devicePixelRatio) });
  }

  box.addEventListener("keydown", (event) => {
    if (!plot) return;
    const last = plot.data[0].length - 1;
    const now = plot.cursor.left >= 0 ? plot.cursor.idx : null;
    const moves = { ArrowLeft: (now ?? last + 1) - 1, ArrowRight: (now ?? -1) + 1, Home: 0, End: last };
    if (event.key === "Escape") plot.setCursor({ left: -10, top: -10 });
    if (event.key === "+") zoom(0.5);
    if (event.key === "-") zoom(2);
    if (event.key === "0") showAll();
    if (!(event.key in moves)) return;
    event.preventDefault();
    moveTo(Math.max(0, Math.min(last, moves[event.key])));
  });
  box.addEventListener("dblclick", showAll);
  addTouch(box, {
    plot: () => plot,
    limit: () => lastStep,
    zoom: (min, max) => plot.setScale("x", { min, max }),
  });
  reset.addEventListener("click", showAll);
  new ResizeObserver(() => {
    if (plot && box.clientWidth) plot.setSize({ width: box.clientWidth, height: HEIGHT });
    else draw(); // it was hidden until now
  }).observe(box);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    shape = ""; // with the colours of the other scheme
    draw();
  });

  return {
    node,
    update(lines, last) {
      series = lines.filter((line) => line.points.length);
      node.hidden = !series.length;
      legend.replaceChildren(...series.map((line) => legendItem(line, format)));
      box.setAttribute("aria-label", `${title}: ${series.map(describe).join("; ")}. Use the arrow keys to read single steps, + and - to zoom.`);
      lastStep = Math.max(last, 1, ...series.map((line) => line.points.at(-1)[0]));
      draw();
    },
  };

  function describe(line) {
    const [first, last] = [line.points[0], line.points.at(-1)];
    return `${line.name} from ${format(first[1])} at step ${first[0]} to ${format(last[1])} at step ${last[0]}`;
  }
}

function legendItem(line, format) {
  return el("span", { class: line.kind ?? `line-${line.place}` }, el("bdi", {}, line.name), ` ${format(line.points.at(-1)[1])}`);
}

/** Returns the styles of a line: of a long one its points are faint, and its mean is drawn over them. */
function styles(line, color) {
  const stroke = color(line.kind ? (line.kind === "held-out" ? "--held-out" : "--accent") : `--line-${line.place % COLORS}`);
  const isHeldOut = line.kind === "held-out";
  const dash = line.kind ? [] : DASHES[Math.floor(line.place / COLORS) % DASHES.length];
  const style = { label: line.name, stroke, width: 2, dash, spanGaps: true, points: { show: isHeldOut, size: 7, fill: stroke } };
  return isSmooth(line) ? [{ ...style, stroke: `color-mix(in srgb, ${stroke} 35%, transparent)`, width: 1 }, style] : [style];
}

function isSmooth(line) {
  return line.kind !== "held-out" && line.points.length >= SMOOTHED_FROM_POINTS;
}

/** Returns uPlot's columns: all steps, then one column for each line that is drawn. */
function toColumns(series) {
  const steps = [...new Set(series.flatMap((line) => line.points.map(([step]) => step)))].sort((a, b) => a - b);
  const column = (points) => {
    const values = new Map(points);
    return steps.map((step) => values.get(step) ?? null);
  };
  const drawn = (line) => (isSmooth(line) ? [line.points, smoothed(line.points)] : [line.points]);
  return [steps, ...series.flatMap(drawn).map(column)];
}

/** Returns the exponential moving average over about a twentieth of the points. */
function smoothed(points) {
  const weight = Math.min(1, 20 / points.length);
  let mean = points[0][1];
  return points.map(([step, value]) => [step, (mean += weight * (value - mean))]);
}

/** Returns the labels of an axis. A tick that is 0 but for rounding is 0. */
function labelsOf(ticks, format) {
  const most = Math.max(...ticks.map(Math.abs));
  return ticks.map((tick) => format(Math.abs(tick) < most * 1e-9 ? 0 : tick));
}

/** Returns the width that the labels of the y axis need. */
function widthOf(labels) {
  return Math.max(LABEL_WIDTH, ...(labels ?? []).map((label) => 8 + LETTER_WIDTH * label.length));
}

function extent(low, high, reference) {
  const values = [low, high, reference?.value].filter((value) => value !== null && value !== undefined);
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const padding = (most - least || Math.abs(most) || 1) * 0.06;
  return [least - padding, most + padding];
}
