// Pictures of the console: of prepared answers that no small cluster gives (none at all, ten thousand regions, a scheduler that is away) and of
// a running node, on a desk and on a phone, in the light and in the dark. Not a part of CI: pictures are for looking at.
//
//   ops/console/screenshots DIRECTORY [STATUS_ADDRESS]
//
// writes PNG files into DIRECTORY, of a node only if its status port is given. Whatever a page writes to the browser's log, as where its
// policy forbids something, is printed and is a failure, and so is a page that is wider than its window.

import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { PREPARED } from "./prepared.mjs";

const HERE = dirname(fileURLToPath(import.meta.url));
const TYPES = { html: "text/html", css: "text/css", js: "text/javascript", svg: "image/svg+xml" };
const POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'";

const [directory, node] = process.argv.slice(2);
if (!directory) {
  console.error("usage: ops/console/screenshots DIRECTORY [STATUS_ADDRESS]");
  process.exit(2);
}

/** A page that serves prepared answers, each set below its own name. */
function serve() {
  const server = createServer((request, response) => {
    const [, name, ...rest] = new URL(request.url, "http://x").pathname.split("/");
    const path = rest.join("/");
    const answer = (type, body) => response.writeHead(200, { "Content-Type": `${type}; charset=utf-8`, "Content-Security-Policy": POLICY }).end(body);
    if (path.startsWith("api/v1/")) {
      const said = PREPARED[name]?.[path.slice("api/v1/".length)];
      if (said) return answer("application/json", JSON.stringify(said));
    } else if (path === "console" || path.startsWith("console/")) {
      const file = path === "console" ? "console.html" : path.slice("console/".length);
      try {
        return answer(TYPES[file.split(".").pop()], readFileSync(join(HERE, file)));
      } catch {
        // It is not there.
      }
    }
    return response.writeHead(404).end();
  });
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(server)));
}

/** A browser that is spoken to over a pipe. */
class Browser {
  constructor(profile) {
    const flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe", `--user-data-dir=${profile}`];
    this.process = spawn("chromium", [...flags, "about:blank"], { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
    this.asked = new Map();
    this.heard = () => {};
    let rest = "";
    this.process.stdio[4].on("data", (chunk) => {
      const parts = (rest + chunk).split("\0");
      rest = parts.pop();
      parts.forEach((part) => this.take(JSON.parse(part)));
    });
  }

  take(said) {
    const waiting = this.asked.get(said.id);
    if (!waiting) return this.heard(said);
    this.asked.delete(said.id);
    return said.error ? waiting.reject(new Error(said.error.message)) : waiting.resolve(said.result);
  }

  ask(method, params = {}, sessionId = undefined) {
    const id = (this.last = (this.last ?? 0) + 1);
    this.process.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    return new Promise((resolve, reject) => this.asked.set(id, { resolve, reject }));
  }
}

const failures = [];

/** One picture of the whole page. */
async function take(browser, name, url, { width, dark = false, mobile = false, run = "" }) {
  const { targetId } = await browser.ask("Target.createTarget", { url: "about:blank" });
  const { sessionId } = await browser.ask("Target.attachToTarget", { targetId, flatten: true });
  const ask = (method, params) => browser.ask(method, params, sessionId);
  browser.heard = ({ method, params }) => {
    const said = method === "Log.entryAdded" ? params.entry.text : method === "Runtime.exceptionThrown" ? params.exceptionDetails.exception?.description : null;
    if (said) failures.push(`${name}: ${said}`);
  };
  const size = (height) => ask("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile });
  await Promise.all([ask("Page.enable"), ask("Log.enable"), ask("Runtime.enable"), size(900)]);
  await ask("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }] });
  const evaluate = async (expression) => (await ask("Runtime.evaluate", { expression, returnByValue: true, awaitPromise: true })).result.value;
  await ask("Page.navigate", { url });
  const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
  const shown = "document.querySelectorAll('#cores-table tbody tr').length > 0 && !document.querySelector('#freshness').textContent.startsWith('loading')";
  for (let tries = 0; !(await evaluate(shown)) && tries < 100; tries += 1) await pause(100);
  if (run) await evaluate(run);
  const [across, down] = await evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]");
  if (across > width) failures.push(`${name}: the page is ${across} pixels wide in a window of ${width}`);
  await size(Math.min(down, 8000));
  await pause(300);
  const { data } = await ask("Page.captureScreenshot", { format: "png" });
  writeFileSync(join(directory, `${name}.png`), Buffer.from(data, "base64"));
  console.log(join(directory, `${name}.png`));
  await browser.ask("Target.closeTarget", { targetId });
}

mkdirSync(directory, { recursive: true });
const profile = mkdtempSync(join(tmpdir(), "ringkeep-console-"));
const server = await serve();
const browser = new Browser(profile);
const desk = { width: 1280 };
const phone = { width: 390, mobile: true };
try {
  const at = (name) => `http://127.0.0.1:${server.address().port}/${name}/console`;
  for (const name of Object.keys(PREPARED)) {
    await take(browser, name, at(name), desk);
    await take(browser, `${name}-dark`, at(name), { ...desk, dark: true });
    await take(browser, `${name}-phone`, at(name), phone);
  }
  await take(browser, "many-phone-dark", at("many"), { ...phone, dark: true });
  const silence = "globalThis.fetch = () => Promise.reject(new TypeError('Failed to fetch')); new Promise((resolve) => setTimeout(resolve, 2500))";
  await take(browser, "silent", at("many"), { ...desk, run: silence });
  if (node) {
    const url = `http://${node}/console`;
    await take(browser, "node", url, desk);
    await take(browser, "node-dark", url, { ...desk, dark: true });
    await take(browser, "node-phone", url, phone);
  }
} finally {
  server.close();
  browser.process.kill();
  await new Promise((resolve) => browser.process.once("exit", resolve));
  rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
}
failures.forEach((failure) => console.error(failure));
process.exit(failures.length > 0 ? 1 : 0);
