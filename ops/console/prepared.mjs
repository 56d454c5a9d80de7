// Prepared answers for pictures of the console: clusters that no machine at hand gives.

const load = (reads, writes) => ({ reads, writes, read_bytes: reads * 900, written_bytes: writes * 1100 });
const text = (value) => ({ text: value, cut: false });

/** Numbers that look drawn and are the same each time. */
function drawn(seed) {
  let state = seed;
  return () => {
    state = (state * 1103515245 + 12345) % 2147483648;
    return state / 2147483648;
  };
}

const times = (name, value, count) => ({ ...name, count, per_second: count / 60, p50_us: value, p99_us: value * 7.3, slowest_us: value * 31 });

function thisNode() {
  const stages = [
    times({ stage: "queue", means: "until it is proposed" }, 14.3, 812345),
    times({ stage: "log", means: "until it is durable on this node" }, 410, 812345),
    times({ stage: "replicate", means: "until a majority has it" }, 655.36, 812345),
    times({ stage: "apply", means: "until it is applied" }, 9.2, 812345),
  ];
  const commands = ["read", "write", "walk", "control"].map((kind, at) => times({ kind }, [61, 1120, 2900, 0.4][at], [2345678, 812345, 12, 3][at]));
  const store = (number) => ({ store: number, state: "serving", words: "serves everything", note: null, regions: 1667, leaders: 556, asleep: 1590, disk_free_bytes: 812e9 });
  const memory = [{ pool: "input", used_bytes: 3 << 20, max_bytes: 64 << 20 }, { pool: "output", used_bytes: 1 << 20, max_bytes: 64 << 20 }];
  const core = (number, stores) => ({ core: number, stores, busy_percent: stores.length ? 71.4 : 1.2, still_ms: 4, stalls: 0, connections: stores.length ? 128 : 7, memory });
  return { cores: [core(0, [store(1)]), core(1, [store(2)]), core(2, [])], requests: { seconds: 60, stages, commands } };
}

function overview(cluster, stores, operators) {
  return {
    version: "0.1.0", node: 3, phase: "serving", keys_shown: true, this_node: thisNode(), cluster, stores, operators,
    stores_left_out: 0, operators_left_out: 0, scheduler: { here: true, places: [], error: null, words: "The scheduler is on this node." },
  };
}

function standing(words, stores, up, regions, further) {
  return {
    healthy: words.startsWith("healthy"), words, problems: [], survives_nodes: 1, stores, stores_up: up, regions, replicas: 3, short: 0,
    leaderless: 0, unavailable: 0, operators: 0, prepared: true, ...further,
  };
}

const store = (number, node, further) => ({
  store: number, node, address: `10.0.0.${node}:${20160 + number}`, state: "up", words: "answers", silent_ms: 480, heard: "last heard 0 s ago", capacity_bytes: 2e12,
  used_bytes: 412e9 + number * 1e9, available_bytes: 812e9, regions: 1667, leaders: 556, load: load(21300 + number * 17, 7400), ...further,
});

/** A cluster that was never written to. */
function empty() {
  const cluster = standing("not healthy: the scheduler waits for reports; survives the loss of no node", 1, 1, 0, { replicas: 1, survives_nodes: 0, prepared: false });
  const one = store(1, 3, { regions: 0, leaders: 0, used_bytes: 0, load: load(0, 0) });
  const page = overview(cluster, [one], []);
  page.this_node.requests.stages = page.this_node.requests.stages.map((it) => ({ ...it, count: 0, per_second: 0, p50_us: null, p99_us: null, slowest_us: null }));
  page.this_node.requests.commands = page.this_node.requests.commands.map((it) => ({ ...it, count: 0, per_second: 0, p50_us: null, p99_us: null, slowest_us: null }));
  return {
    overview: page,
    map: { regions: 0, keys_shown: true, cells: [] },
    regions: { keys_shown: true, regions: [], next: null },
    heat: { of: "operations", unit: "operations/s", keys_shown: true, borders: [text("")], columns: [] },
  };
}

/** Ten thousand regions on three nodes of two stores, one of which is away; a burst of writes, and a hot range. */
function many() {
  const draw = drawn(7);
  const border = (at, all) => (at === 0 ? "" : `tenant:${String(Math.floor((at * 900) / all)).padStart(3, "0")}/user:${String(Math.floor(draw() * 1e6)).padStart(6, "0")}`);
  const stores = [1, 2, 3, 4, 5, 6].map((number) => store(number, Math.ceil(number / 2) + 2, number === 4 ? { state: "unhealthy", words: "is silent for minutes", silent_ms: 214000, heard: "last heard 214 s ago", load: load(0, 0), leaders: 0 } : {}));
  stores[5] = { ...stores[5], state: "evicted", words: "answers, and is kept from leading" };
  const cluster = standing("not healthy: 3 regions have no leader, stores are away: 4, 3334 regions have fewer than 3 replicas that answer; survives the loss of no node", 6, 5, 10000, { survives_nodes: 0, operators: 2 });
  const cells = Array.from({ length: 250 }, (_, at) => {
    const hot = at === 61 ? 40 : 1;
    const leader = [1, 2, 3, 5, 1, 3][Math.floor(at / 11) % 6];
    return {
      start: text(border(at, 250)), first_region: 1000 + at * 40, regions: 40, size_bytes: (40 << 20) * (1 + draw()), keys: Math.floor(40000 * (1 + draw())),
      load: load(Math.floor(300 * draw() * hot), Math.floor(90 * draw() * hot)), leader_store: leader, leads: 30, leaders: 4,
      leaderless: at === 140 ? 3 : 0, short: at % 3 === 0 ? 40 : 0, unavailable: 0,
    };
  });
  const region = (at) => ({
    region: 1000 + at, start: text(border(at, 10000)), end: text(border(at + 1, 10000)), leader_store: at === 3 ? null : 1 + (at % 3),
    replicas: [1, 3, 5].map((number) => ({ store: number, peer: at * 3 + number, role: "voter", lagging: at === 6 && number === 5, silent_ms: at === 3 && number === 3 ? 214000 : null })),
    size_bytes: Math.floor((96 << 20) * draw()), keys: Math.floor(90000 * draw()), load: load(Math.floor(80 * draw()), Math.floor(20 * draw())),
    states: at === 3 ? ["leaderless", "silent"] : at === 6 ? ["lagging", "operated"] : [], operator: at === 6 ? 12 : null,
  });
  const columns = Array.from({ length: 48 }, (_, at) => ({
    ago_minutes: 47 - at,
    values: cells.map((cell, row) => Math.floor((cell.load.reads + cell.load.writes) * (0.6 + 0.8 * draw()) * (at > 30 && at < 36 && row > 150 && row < 190 ? 25 : 1))),
  }));
  const operator = (number, further) => ({ operator: number, region: 1000 + number, policy: "replica-check", cause: "the store of a replica is down", steps: ["add learner peer 31007 on store 2", "promote peer 31007", "remove peer 16 on store 4"], steps_in_all: 3, finished: 1, ago_ms: 4200, outcome: "", succeeded: false, ...further });
  return {
    overview: overview(cluster, stores, [operator(6), operator(7, { finished: 0 }), operator(5, { outcome: "success", succeeded: true, finished: 3, ago_ms: 61000 }), operator(4, { policy: "balance-leader", cause: "one store has more than another", steps: ["transfer leader to peer 9 on store 3"], steps_in_all: 1, outcome: "timeout", ago_ms: 322000 })]),
    map: { regions: 10000, keys_shown: true, cells },
    regions: { keys_shown: true, regions: Array.from({ length: 12 }, (_, at) => region(at)), next: 1011 },
    heat: { of: "operations", unit: "operations/s", keys_shown: true, borders: cells.map((cell) => cell.start), columns },
  };
}

/** A node whose scheduler is on another one, which does not answer; keys are full of what pages are attacked with. */
function away() {
  const page = many();
  const words = "The scheduler does not answer: no member of the cluster answers: 10.0.0.3:20160: it takes no connection, or does not answer on it, within 2 s. It was last looked for at the PD port 10.0.0.3:20160.";
  Object.assign(page.overview, { cluster: null, stores: null, operators: null, scheduler: { here: false, places: ["10.0.0.3:20160"], error: "away", words } });
  page.regions.regions[1].start = text("<img src=x onerror=alert(1)>");
  page.regions.regions[2].start = { text: "\\x00\\xff".repeat(16), cut: true };
  return page;
}

export const PREPARED = { empty: empty(), many: many(), away: away() };
