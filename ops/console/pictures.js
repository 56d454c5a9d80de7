// Pictures of the key space: lanes of cells in key order, and the heat over ranges and minutes. Each has a slider and words beside it that
// say the same.

/** Colours of stores, told apart also by those who see few; the words beside them decide. */
const LIGHT = ["#1b7f72", "#d07a1f", "#5566c4", "#a33b7a", "#6f8f1f", "#2f8fc2", "#8a5a3c", "#7d6f9e", "#b0413e", "#4a6f5e"];
const DARK = ["#4fc0af", "#f0a04e", "#8f9df0", "#de82b8", "#a9cb57", "#6cbdea", "#c79370", "#b3a4d6", "#ef8a84", "#86b09b"];
/** From cold to hot. */
const RAMP_LIGHT = ["#eef2f0", "#c9e3dc", "#7fc4b5", "#e9b44c", "#d9722b", "#8f1f1f"];
const RAMP_DARK = ["#1d2624", "#1f4a43", "#2f8374", "#c98f2b", "#ee8a3f", "#ffe3a8"];

const dark = window.matchMedia("(prefers-color-scheme: dark)");

/** Calls `draw` when the width or the colours change. */
export function onLooks(draw) {
  dark.addEventListener("change", draw);
  window.addEventListener("resize", draw);
}

/** The colour of the store that is the `index`-th. */
export function colour(index) {
  const colours = dark.matches ? DARK : LIGHT;
  return colours[index % colours.length];
}

/** A colour of the page's style. */
function styled(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** The canvas with its real size in pixels, wiped. */
function begin(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.clearRect(0, 0, width, height);
  return { pen, width, height };
}

/** Where the `at`-th of `all` begins in `length` pixels, and how wide it is; no gap is left between two. */
function slot(at, all, length) {
  const from = Math.round((at * length) / all);
  return [from, Math.max(1, Math.round(((at + 1) * length) / all) - from)];
}

/** Marks the cell that is looked at. */
function outline(pen, x, y, width, height) {
  pen.strokeStyle = styled("--ink");
  pen.lineWidth = 2;
  pen.strokeRect(x, y + 1, Math.max(width, 3), height - 2);
}

/** A lane of colours. `look` gives each cell a colour, and whether it is hatched because something is amiss. */
export function colours(canvas, cells, picked, look) {
  const { pen, width, height } = begin(canvas);
  cells.forEach((cell, at) => {
    const [x, wide] = slot(at, cells.length, width);
    const { fill, amiss } = look(cell);
    pen.fillStyle = amiss ? styled("--bad") : fill;
    pen.fillRect(x, 0, wide > 4 ? wide - 1 : wide, height);
    if (amiss) hatch(pen, x, wide, height);
  });
  if (cells.length > 0) {
    const [x, wide] = slot(picked, cells.length, width);
    outline(pen, x, 0, wide, height);
  }
}

function hatch(pen, x, wide, height) {
  pen.save();
  pen.beginPath();
  pen.rect(x, 0, wide, height);
  pen.clip();
  pen.strokeStyle = styled("--card");
  pen.lineWidth = 1;
  for (let at = x - height; at < x + wide; at += 6) {
    pen.beginPath();
    pen.moveTo(at, height);
    pen.lineTo(at + height, 0);
    pen.stroke();
  }
  pen.restore();
}

/** A lane of bars, the highest of which is `max`. */
export function bars(canvas, values, max, picked) {
  const { pen, width, height } = begin(canvas);
  pen.fillStyle = styled("--line");
  pen.fillRect(0, height - 1, width, 1);
  values.forEach((value, at) => {
    const [x, wide] = slot(at, values.length, width);
    const high = max > 0 ? Math.max(value > 0 ? 1 : 0, Math.round((value / max) * (height - 2))) : 0;
    pen.fillStyle = styled("--accent");
    pen.fillRect(x, height - 1 - high, wide > 4 ? wide - 1 : wide, high);
  });
  if (values.length > 0) {
    const [x, wide] = slot(picked, values.length, width);
    outline(pen, x, 0, wide, height);
  }
}

function ramp(part) {
  const stops = dark.matches ? RAMP_DARK : RAMP_LIGHT;
  const at = Math.min(Math.max(part, 0), 1) * (stops.length - 1);
  const low = Math.min(Math.floor(at), stops.length - 2);
  const mix = at - low;
  const channel = (stop, from) => parseInt(stops[stop].slice(from, from + 2), 16);
  const mixed = [1, 3, 5].map((from) => Math.round(channel(low, from) * (1 - mix) + channel(low + 1, from) * mix));
  return `rgb(${mixed.join(" ")})`;
}

/** How hot `value` is where `max` is the hottest, on a scale that shows small loads beside large ones. */
function warmth(value, max) {
  return max > 0 ? Math.log1p(value) / Math.log1p(max) : 0;
}

/** The heat: `columns` by minute, sixty from left to right, of which those without a sample are undefined. */
export function heat(canvas, columns, rows, max, picked) {
  const { pen, width, height } = begin(canvas);
  pen.fillStyle = styled("--row");
  pen.fillRect(0, 0, width, height);
  columns.forEach((values, at) => {
    if (!values) return;
    const [x, wide] = slot(at, columns.length, width);
    values.forEach((value, row) => {
      const [y, high] = slot(row, rows, height);
      pen.fillStyle = ramp(warmth(value, max));
      pen.fillRect(x, y, wide, high);
    });
  });
  const [x, wide] = slot(picked.minute, columns.length, width);
  const [y, high] = slot(picked.row, rows, height);
  outline(pen, x, y - 1, wide, Math.max(high, 3) + 2);
}

/** What the colours mean. */
export function scale(canvas) {
  const { pen, width, height } = begin(canvas);
  for (let x = 0; x < width; x += 1) {
    pen.fillStyle = ramp(x / width);
    pen.fillRect(x, 0, 1, height);
  }
}

/** Calls `pick` with where a canvas was touched, as parts of its width and height. */
export function onPick(canvas, pick) {
  const touched = (event) => {
    const box = canvas.getBoundingClientRect();
    pick((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  };
  canvas.addEventListener("pointerdown", touched);
  canvas.addEventListener("pointermove", (event) => event.buttons > 0 && touched(event));
}
