// Touch on a chart: one finger reads the steps, two fingers zoom and move. uPlot handles the mouse only.

const MIN_STEPS = 1;
const MIN_PIXELS = 8; // between two fingers

/**
 * Handles the fingers on `box`. `plot()` returns the uPlot chart or null, `limit()` its last step, and
 * `zoom(min, max)` shows these steps. The styles of `box` leave vertical swipes to the browser.
 */
export function addTouch(box, { plot, limit, zoom }) {
  const fingers = new Map(); // horizontal position by the id of the pointer
  let held = null; // the steps under two fingers

  const positions = () => [...fingers.values()].sort((a, b) => a - b);
  const inPlot = (event) => event.clientX - plot().over.getBoundingClientRect().left;

  function move() {
    if (!held) return;
    const width = plot().over.clientWidth;
    const [left, right] = positions();
    const perPixel = (held[1] - held[0]) / Math.max(right - left, MIN_PIXELS);
    const steps = Math.min(Math.max(perPixel * width, MIN_STEPS), limit());
    const from = held[0] - (left / width) * steps;
    const min = Math.min(Math.max(from, 0), limit() - steps);
    zoom(min, min + steps);
  }

  function read(event) {
    plot().setCursor({ left: inPlot(event), top: plot().over.clientHeight / 2 });
  }

  box.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "touch" || !plot() || fingers.size === 2) return;
    fingers.set(event.pointerId, inPlot(event));
    held = fingers.size === 2 ? positions().map((x) => plot().posToVal(x, "x")) : null;
  });
  box.addEventListener("pointermove", (event) => {
    if (!fingers.has(event.pointerId) || !plot()) return;
    fingers.set(event.pointerId, inPlot(event));
    if (held) move();
    else read(event);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    box.addEventListener(end, (event) => {
      fingers.delete(event.pointerId);
      held = null;
    });
  }
}
