// Numbers, times and keys as people read them: every number with its unit, every key as text that cannot be taken for markup.

/** Digits in groups: 12,345. */
const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** A number of three digits or a few more, such as 1.25 or 118. */
function digits(value) {
  if (value >= 100) return grouped.format(value);
  return value.toFixed(value >= 10 ? 1 : 2).replace(/\.?0+$/, "");
}

/** How many: 812, 12,345, 1.2 million. */
export function count(value) {
  if (value == null) return "–";
  if (value >= 1e9) return `${digits(value / 1e9)} billion`;
  return value >= 1e6 ? `${digits(value / 1e6)} million` : grouped.format(value);
}

/** How often in a second, without the unit, which stands beside it. */
export function rate(value) {
  if (value == null) return "–";
  return value > 0 && value < 10 && !Number.isInteger(value) ? digits(value) : count(value);
}

const SIZES = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** Bytes: 812 B, 1.5 GiB. */
export function bytes(value) {
  if (value == null) return "–";
  let unit = 0;
  while (value >= 1024 && unit + 1 < SIZES.length) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? grouped.format(value) : digits(value)} ${SIZES[unit]}`;
}

/** Microseconds: 85 µs, 1.2 ms, 3 s. */
export function micros(value) {
  if (value == null) return "–";
  if (value < 1) return "< 1 µs";
  if (value < 1000) return `${digits(value)} µs`;
  return value < 1e6 ? `${digits(value / 1000)} ms` : `${digits(value / 1e6)} s`;
}

/** How long: 3 s, 4 min, 2 h, 5 days. */
export function duration(ms) {
  const seconds = Math.round(ms / 1000);
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}

/** How long ago. */
export function ago(ms) {
  return ms == null ? "never" : `${duration(ms)} ago`;
}

/** A time of the day, by the clock of whoever reads. */
export function clock(date) {
  return date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

/** One thing or several: 1 region, 2 regions. */
export function several(number, word) {
  return `${count(number)} ${word}${number === 1 ? "" : "s"}`;
}

/** A key in text: its beginning, with what is not printable as \xNN; `open` stands for an end of the key space. */
export function key(value, open) {
  if (value == null) return "not shown";
  if (value.text === "") return open;
  return value.cut ? `${value.text}…` : value.text;
}

/** How often in a second, or how many bytes, with the unit. */
export function amount(value, unit) {
  return unit === "bytes/s" ? `${bytes(value)}/s` : `${rate(value)} ${unit}`;
}
