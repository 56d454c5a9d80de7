// The console: asks this node every two seconds while it is looked at, and shows what it says.
//
// What the node says is JSON below api/v1/, and every list in it has a bound. What does not answer is said with the time since when, and what was
// seen last stays. Nothing is kept but what is on the page.

import * as pictures from "./pictures.js";
import { figures, fill, group, head, keyCell, make, mark, number, say, words } from "./tables.js";
import { ago, amount, bytes, clock, count, duration, key, micros, rate, several } from "./words.js";

/** How often the node is asked, and how often it is asked for what changes less. */
const EVERY_MS = 2000;
const HEAT_EVERY_MS = 10000;
/** Longer than the node takes to say that the scheduler does not answer. */
const ANSWER_MAX_MS = 9000;
const MINUTES = 60;

const by = (id) => document.getElementById(id);

const seen = {
  overview: null,
  map: null,
  heat: null,
  /** When the node answered last, and since when it does not. */
  answered: null,
  silentSince: null,
  paused: false,
  /** The page of regions that is shown: behind which region it begins, and which one ends it. */
  after: 0,
  next: null,
  heatDue: 0,
  timer: null,
  asking: false,
  /** Something was chosen while the node was asked. */
  again: false,
};

/** Asks the node. */
async function ask(what) {
  const answer = await fetch(`api/v1/${what}`, { cache: "no-store", signal: AbortSignal.timeout(ANSWER_MAX_MS) });
  const text = await answer.text();
  let said = null;
  try {
    said = JSON.parse(text);
  } catch {
    // It is said as text by what answers before the page does.
  }
  if (answer.ok && said) return said;
  const error = new Error(said?.error ?? (text.trim() || `status ${answer.status}`));
  error.status = answer.status;
  throw error;
}

/** One round: everything that is due, one after the other, so that a page costs the node one connection at a time. */
async function round() {
  clearTimeout(seen.timer);
  if (seen.asking || document.hidden || (seen.paused && !seen.again)) return;
  seen.asking = true;
  seen.again = false;
  try {
    await part("overview", "", showOverview);
    if (seen.silentSince === null) {
      await part("map", "map-note", showMap);
      await part(regionsWanted(), "regions-note", showRegions);
      if (Date.now() >= seen.heatDue) {
        await part(`heat?of=${by("heat-of").value}`, "heat-note", showHeat);
        seen.heatDue = Date.now() + HEAT_EVERY_MS;
      }
    }
  } finally {
    seen.asking = false;
    freshness();
    seen.timer = setTimeout(round, seen.again ? 0 : EVERY_MS);
  }
}

/** Asks for a part of the page and shows it; where it is refused, `note` says why. */
async function part(what, note, show) {
  let said;
  try {
    said = await ask(what);
  } catch (error) {
    if (error.status !== undefined && note !== "") {
      say(note, `${error.message}${seen.answered ? " What is shown was seen before." : ""}`);
      if (error.status === 404 && seen.after !== 0) seen.after = 0;
      return;
    }
    silent(error);
    return;
  }
  seen.answered = new Date();
  if (seen.silentSince !== null) {
    seen.silentSince = null;
    say("trouble", null);
    by("main").classList.remove("stale");
  }
  show(said);
}

/** The node does not answer. */
function silent(error) {
  seen.silentSince ??= new Date();
  const timed = error.name === "TimeoutError" ? `it takes longer than ${ANSWER_MAX_MS / 1000} s` : error.message;
  const last = seen.answered ? ` What is below was seen at ${clock(seen.answered)}.` : "";
  say("trouble", `This node does not answer since ${clock(seen.silentSince)}: ${timed}.${last}`);
  by("main").classList.add("stale");
}

function freshness() {
  const last = seen.answered ? `as of ${clock(seen.answered)}` : "nothing seen yet";
  by("freshness").textContent = seen.paused ? `${last}, paused` : last;
}

function showOverview(said) {
  seen.overview = said;
  by("about").textContent = `console of node ${said.node}, version ${said.version}, ${said.phase}`;
  document.title = `ringkeep, node ${said.node}`;
  say("scheduler", said.scheduler.words);
  by("scheduler").classList.toggle("trouble", said.scheduler.error !== null);
  if (said.cluster) {
    showCluster(said);
    showStores(said);
    showOperators(said);
  } else {
    by("standing").dataset.state = "unknown";
    say("standing", "It is not known how the cluster does, because the scheduler does not answer.");
    for (const id of ["stores-table", "operators-table"]) {
      if (by(id).tBodies[0].rows.length === 0) fill(id, [], "Not known as long as the scheduler does not answer.");
    }
  }
  showNode(said.this_node);
}

function showCluster({ cluster, stores }) {
  by("standing").dataset.state = cluster.healthy ? "good" : "bad";
  say("standing", `${cluster.words[0].toUpperCase()}${cluster.words.slice(1)}.`);
  const used = stores.filter((store) => store.state !== "gone");
  const sum = (pick) => used.reduce((total, store) => total + pick(store), 0);
  figures("figures", [
    ["nodes", count(new Set(used.map((store) => store.node)).size)],
    [cluster.stores_up === cluster.stores ? "stores, all up" : `of ${cluster.stores} stores up`, count(cluster.stores_up)],
    ["regions", count(cluster.regions)],
    [cluster.replicas === 1 ? "replica of each" : "replicas of each", count(cluster.replicas)],
    [cluster.survives_nodes === 1 ? "node may fail" : "nodes may fail", count(cluster.survives_nodes)],
    ["reads/s", rate(sum((store) => store.load.reads))],
    ["writes/s", rate(sum((store) => store.load.writes))],
    ["used", bytes(sum((store) => store.used_bytes))],
    [cluster.operators === 1 ? "operator runs" : "operators run", count(cluster.operators)],
  ]);
}

/** How well a store does, by its state. */
function storeKind(state) {
  if (state === "up") return "good";
  return ["evicted", "busy", "leaving", "gone"].includes(state) ? "warm" : "bad";
}

function showStores(said) {
  const rows = [];
  const nodes = [...new Set(said.stores.map((store) => store.node))].sort((one, other) => one - other);
  for (const node of nodes) {
    const here = node === said.node ? ", this one" : "";
    const stores = said.stores.filter((store) => store.node === node);
    const away = stores.filter((store) => storeKind(store.state) === "bad").length;
    const how = away === 0 ? "" : `: ${away} of ${several(stores.length, "store")} away`;
    rows.push(group("stores-table", `Node ${node}${here}${how}`));
    for (const store of stores) {
      rows.push([
        head(`Store ${store.store}`),
        words(mark(storeKind(store.state), store.state), ` ${store.words}, ${store.heard}`),
        number(count(store.regions)),
        number(count(store.leaders)),
        number(rate(store.load.reads)),
        number(rate(store.load.writes)),
        number(bytes(store.used_bytes)),
        number(bytes(store.available_bytes)),
        make("td", "plain", store.address),
      ]);
    }
  }
  fill("stores-table", rows, "No store has joined.");
  say("stores-note", said.stores_left_out > 0 ? `${several(said.stores_left_out, "store")} more; ringkeep ctl stores lists them all.` : null);
  const select = by("regions-store");
  const options = said.stores.filter((store) => store.state !== "gone").map((store) => String(store.store));
  const known = [...select.options].slice(1).map((option) => option.value);
  if (options.join() !== known.join()) {
    const chosen = select.value;
    select.replaceChildren(new Option("any store", "0"), ...options.map((store) => new Option(`store ${store}`, store)));
    select.value = options.includes(chosen) ? chosen : "0";
  }
}

function showOperators(said) {
  const row = (it) => {
    const done = (at) => (at < it.finished ? " (done)" : "");
    const list = it.steps.map((step, at) => `${at + 1}. ${step}${done(at)}`).join("; ");
    const more = it.steps_in_all > it.steps.length ? `; and ${it.steps_in_all - it.steps.length} more` : "";
    const running = it.outcome === "";
    const state = running ? `runs, ${it.finished} of ${several(it.steps_in_all, "step")} done` : it.outcome;
    return [
      head(`Region ${it.region}`),
      words(`${it.cause} (${it.policy})`),
      words(`${list}${more}`),
      words(mark(running ? "warm" : it.succeeded ? "good" : "bad", state)),
      make("td", "plain", `${running ? "began" : "ended"} ${ago(it.ago_ms)}`),
    ];
  };
  fill("operators-table", said.operators.map(row), "Nothing is being done, and nothing was since the scheduler began here.");
  const more = said.operators_left_out > 0 ? ` ${count(said.operators_left_out)} more are not shown.` : "";
  say("operators-note", `What the scheduler does to regions, and why; those that run come first.${more}`);
}

/** A number with a bar below it, as long as its part of the largest one. */
function barred(value, max) {
  const cell = number(micros(value));
  const bar = make("span", "bar");
  bar.setAttribute("aria-hidden", "true");
  bar.style.width = `${max > 0 ? Math.round(((value ?? 0) / max) * 100) : 0}%`;
  cell.append(bar);
  return cell;
}

function showNode(node) {
  const { seconds, stages, commands } = node.requests;
  say("stages-note", `Writes that this node proposed as a leader in the last ${duration(seconds * 1000)}, by stage: each is later than the one above.`);
  const longest = Math.max(...stages.map((stage) => stage.p99_us ?? 0));
  const times = (it) => [number(rate(it.per_second)), number(micros(it.p50_us))];
  const stage = (it) => [
    head(it.stage, make("div", "quiet", it.means)),
    ...times(it),
    barred(it.p99_us, longest),
    number(micros(it.slowest_us)),
  ];
  fill("stages-table", stages.map(stage), "This node has proposed nothing.");
  const slowest = Math.max(...commands.map((kind) => kind.p99_us ?? 0));
  const kind = (it) => [head(it.kind), ...times(it), barred(it.p99_us, slowest), number(micros(it.slowest_us))];
  fill("commands-table", commands.map(kind), "No command has come.");
  fill("cores-table", node.cores.map(coreRow), "No core has said anything yet.");
}

function coreRow(core) {
  const stalls = core.stalls > 0 ? `, was held up ${several(core.stalls, "time")}` : "";
  const held = core.still_ms >= 2000 ? mark("bad", `has run no other task for ${duration(core.still_ms)}`) : null;
  const lines = core.stores.map((store) => {
    const note = store.note ? `; ${store.note}` : "";
    return make("div", "", mark(store.state === "serving" ? "good" : "bad", store.state.replaceAll("_", " ")), ` store ${store.store} ${store.words}${note}`);
  });
  if (lines.length === 0) lines.push(make("div", "", mark("good", "runs"), " hosts no store: start, drain and, on one node, the scheduler"));
  const sum = (pick) => core.memory.reduce((total, pool) => total + pick(pool), 0);
  const asleep = core.stores.reduce((total, store) => total + store.asleep, 0);
  const free = core.stores.map((store) => store.disk_free_bytes);
  return [
    head(`Core ${core.core}`),
    words(...(held ? [held] : []), ...lines, stalls ? make("div", "quiet", stalls.slice(2)) : ""),
    number(core.busy_percent == null ? "–" : `${core.busy_percent.toFixed(0)} %`),
    number(count(core.connections)),
    number(core.memory.length > 0 ? `${bytes(sum((pool) => pool.used_bytes))} of ${bytes(sum((pool) => pool.max_bytes))}` : "–"),
    number(core.stores.length > 0 ? several(asleep, "replica") : "–"),
    number(free.length > 0 ? bytes(Math.min(...free)) : "–"),
  ];
}

/** The stores that lead, in a fixed order, so that a store keeps its colour. */
function leaders() {
  const stores = new Set(seen.map.cells.map((cell) => cell.leader_store).filter((store) => store !== null));
  for (const store of seen.overview?.stores ?? []) stores.add(store.store);
  return [...stores].sort((one, other) => one - other);
}

const ops = (load) => load.reads + load.writes;

function showMap(said) {
  seen.map = said;
  const cells = said.cells;
  by("map").hidden = cells.length === 0;
  if (cells.length === 0) {
    say("map-note", "No regions are known yet: the scheduler has heard no report.");
    return;
  }
  const hidden = said.keys_shown ? "" : " Keys are not shown, because the cluster has a secret and this port listens beyond this host.";
  const each = cells.length === said.regions ? "Each cell is a region" : `Each cell is about ${several(Math.round(said.regions / cells.length), "region")} side by side`;
  say("map-note", `${each}, in key order from left to right: ${several(said.regions, "region")} in ${several(cells.length, "cell")}.${hidden}`);
  by("map-pick").max = cells.length - 1;
  drawMap();
}

function drawMap() {
  if (!seen.map || seen.map.cells.length === 0) return;
  const { cells } = seen.map;
  const picked = Math.min(Number(by("map-pick").value), cells.length - 1);
  const order = leaders();
  const amiss = (cell) => cell.leaderless + cell.unavailable > 0;
  const look = (cell) => ({
    fill: cell.leader_store === null ? "transparent" : pictures.colour(order.indexOf(cell.leader_store)),
    amiss: amiss(cell),
  });
  pictures.colours(by("map-leaders"), cells, picked, look);
  const sizes = cells.map((cell) => cell.size_bytes);
  const loads = cells.map((cell) => ops(cell.load));
  const [size, load] = [Math.max(...sizes), Math.max(...loads)];
  pictures.bars(by("map-size"), sizes, size, picked);
  pictures.bars(by("map-load"), loads, load, picked);
  by("map-size-max").textContent = `the highest bar is ${bytes(size)}`;
  by("map-load-max").textContent = `the highest bar is ${rate(load)} operations/s`;
  legend(order, cells.filter(amiss).length);
  const words = cellWords(cells, picked);
  by("map-picked").textContent = words;
  by("map-pick").setAttribute("aria-valuetext", words);
}

function legend(order, amiss) {
  const led = new Map((seen.overview?.stores ?? []).map((store) => [store.store, store.leaders]));
  const item = (store, at) => {
    const swatch = make("span", "swatch");
    swatch.style.background = pictures.colour(at);
    return make("li", "", swatch, led.has(store) ? `store ${store} leads ${count(led.get(store))}` : `store ${store}`);
  };
  const items = order.map(item);
  if (amiss > 0) items.push(make("li", "", mark("bad", `${several(amiss, "cell")} red and hatched: without a leader or a majority`)));
  by("map-legend").replaceChildren(...items);
}

function cellWords(cells, at) {
  const cell = cells[at];
  const range = seen.map.keys_shown
    ? `from ${key(cell.start, "the beginning")} up to ${at + 1 < cells.length ? key(cells[at + 1].start, "the end") : "the end"}`
    : "keys not shown";
  const led = cell.leader_store === null ? "no leader is known" : cell.leaders === 1 ? `led by store ${cell.leader_store}` : `store ${cell.leader_store} leads ${cell.leads} of them, ${cell.leaders - 1} other stores the rest`;
  const amiss = [
    cell.leaderless > 0 ? `${cell.leaderless} without a leader` : "",
    cell.unavailable > 0 ? `${cell.unavailable} without a majority` : "",
    cell.short > 0 ? `${cell.short} short of replicas` : "",
  ].filter((text) => text !== "");
  const regions = cell.regions === 1 ? `region ${cell.first_region}` : `${several(cell.regions, "region")}, the first is region ${cell.first_region}`;
  return `Cell ${at + 1} of ${cells.length}, ${range}: ${regions}; ${led}; ${bytes(cell.size_bytes)} in about ${several(cell.keys, "key")}; ${rate(cell.load.reads)} reads/s, ${rate(cell.load.writes)} writes/s${amiss.length > 0 ? `; ${amiss.join(", ")}` : ""}.`;
}

function regionsWanted() {
  const hottest = by("regions-order").value === "hottest";
  const wanted = new URLSearchParams({ store: by("regions-store").value, state: by("regions-state").value, hottest });
  if (!hottest) wanted.set("after", seen.after);
  return `regions?${wanted}`;
}

function showRegions(said) {
  const row = (region) => {
    const replica = (it) => `${it.store}${it.role === "voter" ? "" : ` (${it.role})`}${it.silent_ms === null ? "" : " (silent)"}${it.lagging ? " (lags)" : ""}`;
    // That nothing is in it says its size, too.
    const states = region.states.filter((state) => state !== "empty");
    const kind = (state) => (["leaderless", "short", "silent"].includes(state) ? "bad" : "warm");
    return [
      head(`Region ${region.region}`),
      keyCell(key(region.start, "the beginning")),
      keyCell(key(region.end, "the end")),
      make("td", "plain", region.leader_store === null ? mark("bad", "none") : `store ${region.leader_store}`),
      make("td", "plain", region.replicas.map(replica).join(", ")),
      number(bytes(region.size_bytes)),
      number(count(region.keys)),
      number(rate(region.load.reads)),
      number(rate(region.load.writes)),
      make("td", "plain", ...(states.length > 0 ? states.map((state) => mark(kind(state), state)) : ["as it should be"])),
    ];
  };
  fill("regions-table", said.regions.map(row), seen.map?.regions === 0 ? "No region is known yet." : "No region is like that.");
  say("regions-note", null);
  seen.next = said.next;
  by("regions-next").disabled = said.next === null;
  by("regions-first").disabled = seen.after === 0;
}

function showHeat(said) {
  seen.heat = said;
  by("heat-picture").hidden = said.columns.length === 0;
  if (said.columns.length === 0) {
    say("heat-note", "Nothing was seen yet: the scheduler samples loads every ten seconds, and keeps the last hour since it began on its node.");
    return;
  }
  const since = said.columns[0].ago_minutes;
  say("heat-note", `Means of each minute, in ${several(said.borders.length, "range")} of keys, downwards in key order; the scheduler has seen the last ${several(since + 1, "minute")}.`);
  by("heat-range").max = said.borders.length - 1;
  drawHeat();
  showHot();
}

/** The values of each of the last sixty minutes, the latest last. */
function minutes() {
  const columns = new Array(MINUTES).fill(undefined);
  for (const column of seen.heat.columns) {
    if (column.ago_minutes < MINUTES) columns[MINUTES - 1 - column.ago_minutes] = column.values;
  }
  return columns;
}

function rangeWords(row, joint) {
  const { borders, keys_shown } = seen.heat;
  const to = row + 1 < borders.length ? key(borders[row + 1], "the end") : "the end";
  return keys_shown ? `from ${key(borders[row], "the beginning")}${joint}${to}` : `range ${row + 1} of ${borders.length}`;
}

function drawHeat() {
  if (!seen.heat || seen.heat.columns.length === 0) return;
  const columns = minutes();
  const { borders, unit } = seen.heat;
  const max = columns.reduce((most, values) => (values ? Math.max(most, ...values) : most), 0);
  const picked = { row: Math.min(Number(by("heat-range").value), borders.length - 1), minute: Number(by("heat-minute").value) };
  pictures.heat(by("heat-canvas"), columns, borders.length, max, picked);
  pictures.scale(by("heat-scale"));
  by("heat-high").textContent = amount(max, unit);
  const when = picked.minute === MINUTES - 1 ? "in this minute" : `${several(MINUTES - 1 - picked.minute, "minute")} ago`;
  const value = columns[picked.minute]?.[picked.row];
  const words = `Range ${rangeWords(picked.row, " up to ")}, ${when}: ${value === undefined ? "no sample" : amount(value, unit)}.`;
  by("heat-picked").textContent = words;
  by("heat-range").setAttribute("aria-valuetext", words);
  by("heat-minute").setAttribute("aria-valuetext", words);
}

function showHot() {
  const { columns, borders, unit } = seen.heat;
  const rows = borders.map((_, row) => {
    const values = columns.map((column) => ({ value: column.values[row], ago: column.ago_minutes }));
    const peak = values.reduce((most, it) => (it.value > most.value ? it : most));
    return { row, peak, mean: values.reduce((sum, it) => sum + it.value, 0) / values.length };
  });
  const hottest = rows.filter((it) => it.peak.value > 0).sort((one, other) => other.mean - one.mean).slice(0, 5);
  const shown = (border, open) => key(border, open);
  const cells = ({ row, peak, mean }) => [
    keyCell(shown(borders[row], "the beginning")),
    keyCell(row + 1 < borders.length ? shown(borders[row + 1], "the end") : "the end"),
    number(amount(mean, unit)),
    number(amount(peak.value, unit)),
    make("td", "plain", peak.ago === 0 ? "in this minute" : `${several(peak.ago, "minute")} ago`),
  ];
  fill("hot-table", hottest.map(cells), "No range of keys had any load.");
}

/** Shows what was chosen at once. */
function again(after) {
  seen.after = after;
  seen.heatDue = 0;
  seen.again = true;
  round();
}

function begin() {
  for (const id of ["regions-form", "heat-form"]) {
    by(id).addEventListener("change", () => again(0));
    by(id).addEventListener("submit", (event) => event.preventDefault());
  }
  by("regions-first").addEventListener("click", () => again(0));
  by("regions-next").addEventListener("click", () => again(seen.next ?? 0));
  by("pause").addEventListener("click", () => {
    seen.paused = !seen.paused;
    by("pause").setAttribute("aria-pressed", String(seen.paused));
    by("pause").textContent = seen.paused ? "Resume" : "Pause";
    freshness();
    round();
  });
  by("map-pick").addEventListener("input", drawMap);
  for (const id of ["map-leaders", "map-size", "map-load"]) {
    pictures.onPick(by(id), (part) => {
      by("map-pick").value = Math.floor(part * (Number(by("map-pick").max) + 1));
      drawMap();
    });
  }
  for (const id of ["heat-range", "heat-minute"]) by(id).addEventListener("input", drawHeat);
  pictures.onPick(by("heat-canvas"), (across, down) => {
    by("heat-minute").value = Math.floor(across * MINUTES);
    by("heat-range").value = Math.floor(down * (Number(by("heat-range").max) + 1));
    drawHeat();
  });
  pictures.onLooks(() => {
    drawMap();
    drawHeat();
  });
  document.addEventListener("visibilitychange", round);
  round();
}

begin();
