// A line chart in SVG, sized in pixels, that can be read by mouse, touch and arrow keys.

import { el, setText } from "./dom.js";
import { number } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 190;
const MARGIN = { left: 44, right: 10, top: 10, bottom: 24 };
const SMOOTHED_FROM_POINTS = 60; // a shorter line is readable without smoothing

/** Returns `{node, update(series, lastStep)}`; series: `[{name, kind, points: [[step, value]]}]`. */
export function makeChart({ title, format, range, reference }) {
  const readout = el("output", { class: "readout" });
  const legend = el("span", { class: "legend" });
  const svg = svgEl("svg", { role: "img", tabindex: "0", height: HEIGHT, class: "chart" });
  const node = el("figure", { class: "card" }, el("figcaption", {}, el("h3", {}, title), legend), svg, readout);
  let series = [];
  let lastStep = 1;
  let cursor = null; // index in steps()

  const steps = () => [...new Set(series.flatMap((line) => line.points.map(([step]) => step)))].sort((a, b) => a - b);

  function draw() {
    const width = svg.clientWidth;
    if (!width || !series.length) return;
    const [low, high] = range ?? extent(series, reference);
    const x = (step) => MARGIN.left + (step / Math.max(lastStep, 1)) * (width - MARGIN.left - MARGIN.right);
    const y = (value) => HEIGHT - MARGIN.bottom - ((value - low) / (high - low)) * (HEIGHT - MARGIN.top - MARGIN.bottom);
    const shapes = [];
    for (const tick of ticks(low, high, 4)) {
      shapes.push(svgEl("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(tick), y2: y(tick) }));
      shapes.push(label(format(tick), MARGIN.left - 6, y(tick) + 4, "end"));
    }
    const places = ticks(0, lastStep, Math.max(2, Math.floor(width / 90))).filter(Number.isInteger);
    for (const tick of places) {
      const anchor = tick === 0 ? "start" : x(tick) > width - 24 ? "end" : "middle";
      shapes.push(label(number(tick), Math.min(x(tick), width), HEIGHT - 6, anchor));
    }
    if (reference && reference.value >= low && reference.value <= high) {
      const height = y(reference.value);
      shapes.push(svgEl("line", { class: "reference", x1: MARGIN.left, x2: width - MARGIN.right, y1: height, y2: height }));
      shapes.push(label(reference.name, width - MARGIN.right, height - 5, "end"));
    }
    for (const line of series) shapes.push(...drawLine(line, x, y));
    if (cursor !== null) shapes.push(...crosshair(x, y));
    svg.replaceChildren(...shapes);
  }

  function crosshair(x, y) {
    const step = steps()[cursor];
    const here = series.map((line) => [line, line.points.find(([at]) => at === step)]).filter(([, point]) => point);
    setText(readout, `Step ${step}: ${here.map(([line, [, value]]) => `${line.name} ${format(value)}`).join(", ")}`);
    return [
      svgEl("line", { class: "cursor", x1: x(step), x2: x(step), y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom }),
      ...here.map(([line, [, value]]) => svgEl("circle", { class: `dot ${line.kind}`, cx: x(step), cy: y(value), r: 4.5 })),
    ];
  }

  function moveCursor(index) {
    cursor = index;
    if (index === null) setText(readout, "");
    draw();
  }

  svg.addEventListener("keydown", (event) => {
    const last = steps().length - 1;
    const moves = { ArrowLeft: (cursor ?? last + 1) - 1, ArrowRight: (cursor ?? -1) + 1, Home: 0, End: last };
    if (event.key === "Escape") return moveCursor(null);
    if (!(event.key in moves) || last < 0) return undefined;
    event.preventDefault();
    return moveCursor(Math.max(0, Math.min(last, moves[event.key])));
  });
  svg.addEventListener("blur", () => moveCursor(null));
  svg.addEventListener("pointerleave", () => moveCursor(null));
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const share = (event.clientX - box.left - MARGIN.left) / (box.width - MARGIN.left - MARGIN.right);
    const all = steps();
    if (all.length) moveCursor(nearest(all, share * lastStep));
  });
  new ResizeObserver(draw).observe(svg);

  return {
    node,
    update(lines, last) {
      series = lines.filter((line) => line.points.length);
      lastStep = Math.max(last, ...steps());
      node.hidden = !series.length;
      legend.replaceChildren(...series.map((line) => el("span", { class: line.kind }, `${line.name} ${format(line.points.at(-1)[1])}`)));
      svg.setAttribute("aria-label", `${title}: ${series.map(describe).join("; ")}. Use the arrow keys to read single steps.`);
      draw();
    },
  };

  function describe(line) {
    const [first, last] = [line.points[0], line.points.at(-1)];
    return `${line.name} from ${format(first[1])} at step ${first[0]} to ${format(last[1])} at step ${last[0]}`;
  }
}

function drawLine(line, x, y) {
  const path = (points, kind) =>
    svgEl("polyline", { class: kind, points: points.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(" ") });
  // Held-out metrics exist at few steps. Dots distinguish them without relying on colour.
  if (line.kind === "held-out") {
    const dots = line.points.map(([step, value]) => svgEl("circle", { class: "dot held-out", cx: x(step), cy: y(value), r: 3.5 }));
    return [path(line.points, "line held-out"), ...dots];
  }
  if (line.points.length < SMOOTHED_FROM_POINTS) return [path(line.points, `line ${line.kind}`)];
  return [path(line.points, `line faint ${line.kind}`), path(smoothed(line.points), `line ${line.kind}`)];
}

/** Returns the exponential moving average over about a twentieth of the points. */
function smoothed(points) {
  const weight = Math.min(1, 20 / points.length);
  let mean = points[0][1];
  return points.map(([step, value]) => [step, (mean += weight * (value - mean))]);
}

function extent(series, reference) {
  const values = series.flatMap((line) => line.points.map(([, value]) => value));
  if (reference) values.push(reference.value);
  const [low, high] = values.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
  const padding = (high - low || Math.abs(high) || 1) * 0.06;
  return [low - padding, high + padding];
}

/** Returns about `count` round numbers from low to high. */
function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const size = [1, 2, 5, 10].find((step) => step * power >= rough) * power;
  const found = [];
  for (let i = Math.ceil(low / size); i * size <= high * (1 + 1e-9); i++) found.push(Number((i * size).toPrecision(12)));
  return found;
}

function nearest(sorted, target) {
  return sorted.reduce((best, step, index) => (Math.abs(step - target) < Math.abs(sorted[best] - target) ? index : best), 0);
}

function label(text, x, y, anchor) {
  const node = svgEl("text", { x, y, "text-anchor": anchor });
  node.textContent = text;
  return node;
}

function svgEl(name, attributes) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}
