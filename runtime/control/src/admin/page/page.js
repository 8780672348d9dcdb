// @ts-check
/*
 * The page: asks the API once a second, one request at a time, shows the answers, and sends what the operator
 * changes.
 *
 * Invariant: it asks while it is seen, and goes on by itself when the balancer is back. The token stays in
 * this tab and goes to this balancer alone.
 */

import { byId, list, say } from "./nodes.js";
import { clock, Samples, span, title } from "./model.js";
import { draw, reasonItem, sayState, showCards } from "./services.js";
import { forgetEvents, showDrops, showEvent, showModules, showSessions } from "./lists.js";

/** The pause between two polls, how long an answer may take, in milliseconds. */
const [PAUSE_MS, PATIENCE_MS] = [1000, 10_000];
/** By how many services and sessions "show more" shows more. */
const [SERVICES_STEP, SESSIONS_STEP] = [20, 100];
/** The most problems that are listed. */
const PROBLEMS_MAX = 50;
/** Where the token is kept. */
const TOKEN = "waxwing-token";

/** A request that the balancer refused. */
class Refused extends Error {
  /** @param {number} status @param {string} text */
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

const samples = new Samples();
/** The last answers. @type {any} */
let latest = null;
/** When the last answer came. @type {Date | null} */
let answeredAt = null;
/** @type {Date | null} */
let awaySince = null;
let servicesShown = SERVICES_STEP;
let sessionsShown = SESSIONS_STEP;
/** The running poll's timer, and the stream of events. @type {number | undefined} */
let timer;
let isPolling = false;
/** @type {AbortController | null} */
let following = null;
let newestEvent = 0;

/**
 * Asks the balancer.
 * @param {string} path
 * @param {RequestInit} [options]
 * @returns {Promise<Response>} a success
 */
async function ask(path, options = {}) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = { ...options.headers, ...(token ? { authorization: `Bearer ${token}` } : {}) };
  const signal = AbortSignal.timeout(PATIENCE_MS);
  const answer = await fetch(path, { signal, cache: "no-store", ...options, headers });
  if (answer.ok) return answer;
  const text = await answer.text();
  let error = text || answer.statusText;
  try {
    error = JSON.parse(text).error;
  } catch {
    // Not from the balancer: its text will do.
  }
  throw new Refused(answer.status, error);
}

/** Asks for the state and shows it, then again after a pause. */
async function poll() {
  clearTimeout(timer);
  if (isPolling || document.hidden) return;
  isPolling = true;
  const begun = performance.now();
  try {
    const status = await (await ask("v1/status")).json();
    const at = performance.now();
    const health = await (await ask("v1/health")).json();
    const drops = await (await ask("v1/drops?limit=1000000")).json();
    // The token may have been forgotten meanwhile.
    if (byId("ask").hidden) {
      take(at, status, health, drops.items);
      follow();
    }
  } catch (error) {
    failed(error);
  }
  isPolling = false;
  // Of a balancer with very many services the page asks less often.
  const pause = Math.min(Math.max(PAUSE_MS, 3 * (performance.now() - begun)), PATIENCE_MS);
  if (byId("ask").hidden) timer = setTimeout(poll, pause);
}

/** @param {number} at @param {any} status @param {any} health @param {any[]} drops */
function take(at, status, health, drops) {
  if (latest?.status.pid !== status.pid) {
    samples.clear();
    newestEvent = 0;
    following?.abort();
    forgetEvents();
  }
  samples.add(at, status, drops);
  latest = { status, health, drops };
  [answeredAt, awaySince] = [new Date(), null];
  byId("away").hidden = true;
  byId("main").hidden = false;
  byId("forget").hidden = sessionStorage.getItem(TOKEN) === null;
  show();
}

/** Says why there is no answer. @param {any} error */
function failed(error) {
  if (error instanceof Refused && error.status === 401) {
    const had = sessionStorage.getItem(TOKEN) !== null;
    forget(had ? "This is not the balancer's token." : "");
    return;
  }
  awaySince ??= new Date();
  following?.abort();
  const why = error instanceof Refused ? error.message : "the balancer does not answer";
  const shown = answeredAt ? ` What is shown is from ${time(answeredAt)}.` : "";
  say(byId("away"), `No answer since ${time(awaySince)}: ${why}.${shown} The page goes on asking.`);
  byId("away").hidden = false;
}

/** @param {Date} date */
const time = (date) => clock(date.getTime() / 1000);

/** Forgets the token, and asks for one. @param {string} why */
function forget(why) {
  sessionStorage.removeItem(TOKEN);
  following?.abort();
  samples.clear();
  latest = null;
  byId("main").hidden = true;
  byId("away").hidden = true;
  byId("forget").hidden = true;
  byId("ask").hidden = false;
  say(byId("head"), "The balancer asks for its token.");
  say(byId("state"), "");
  say(byId("token-error"), why);
  byId("token").focus();
}

/** Shows the last answers. */
function show() {
  const { status, health, drops } = latest;
  const { sessions, config } = status;
  sayState(byId("state"), health.state);
  document.title = `${health.state === "ok" ? "" : `${health.state}: `}Waxwing`;
  say(byId("head"), `${status.version}, pid ${status.pid}, up ${span(status.uptime_s)}, config generation ` +
    `${config.generation}, ${sessions.used} of ${sessions.max} sessions; ` +
    `rates over ${samples.seconds.toFixed(0)} s`);
  showProblems(health, status.module_files);
  const rated = drops.map((/** @type {any} */ drop) => ({ ...drop, rate: samples.dropRate(drop) }));
  showServices(rated);
  showDrops(rated.filter((/** @type {any} */ drop) => drop.service === null)
    .sort((/** @type {any} */ a, /** @type {any} */ b) => b.rate - a.rate || b.packets - a.packets));
  const kind = (/** @type {string} */ kind) => (/** @type {any} */ module) => ({ ...module, kind });
  showModules([...status.modules.map(kind("policy")), ...status.checks.map(kind("check"))], askRollBack);
}

/** @param {any} health @param {string[]} files */
function showProblems(health, files) {
  const of = (/** @type {any} */ service) =>
    service.reasons.map((/** @type {string} */ reason) => `${service.service} ${service.state}: ${reason}`);
  const problems = [...new Set([...health.reasons, ...health.services.flatMap(of), ...files])];
  const more = problems.length - PROBLEMS_MAX;
  const shown = problems.slice(0, PROBLEMS_MAX);
  if (more > 0) shown.push(`and ${more} more: see the services, or \`waxwing health\``);
  list(byId("problem-list"), shown, (text) => text, reasonItem);
  byId("no-problem").hidden = problems.length > 0;
}

/** @param {any[]} drops */
function showServices(drops) {
  const { status, health } = latest;
  const filter = byId("service-filter").value;
  const passing = status.services.filter((/** @type {any} */ it) => it.name.includes(filter));
  const judged = new Map(health.services.map((/** @type {any} */ it) => [it.service, it]));
  const dropped = Map.groupBy(drops, (drop) => drop.service);
  const rated = passing.map((/** @type {any} */ it) => ({
    ...samples.service(it),
    health: judged.get(it.name),
    drops: dropped.get(it.name) ?? [],
  }));
  showCards(rated.slice(0, servicesShown), askChange);
  const shown = Math.min(servicesShown, rated.length);
  say(byId("service-count"), `${shown} of ${status.services.length} services shown`);
  byId("more-services").hidden = shown === rated.length;
  draw(rated, status.ports);
}

/** Follows the events until the page is hidden or the balancer is away. */
async function follow() {
  if (following) return;
  const control = new AbortController();
  following = control;
  try {
    const answer = await ask(`v1/events?follow=true&after=${newestEvent}`, { signal: control.signal });
    const reader = answer.body?.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (let part = await reader?.read(); part && !part.done; part = await reader?.read()) {
      const lines = (rest + part.value).split("\n");
      rest = lines.pop() ?? "";
      // Empty ones tell that it is still there.
      for (const line of lines.filter((line) => line !== "")) {
        const event = JSON.parse(line);
        newestEvent = event.number;
        showEvent(event);
      }
    }
  } catch {
    // The next poll tells why, or follows again.
  }
  following = null;
}

/** Asks for sessions, and shows them. */
async function searchSessions() {
  const query = new URLSearchParams({ limit: String(sessionsShown + 1) });
  for (const [name, value] of new FormData(byId("session-form"))) {
    if (value !== "") query.set(name, String(value).trim());
  }
  const note = byId("session-note");
  try {
    const text = await (await ask(`v1/sessions?${query}`)).text();
    const sessions = text.split("\n").filter((line) => line !== "").map((line) => JSON.parse(line));
    const shown = sessions.slice(0, sessionsShown)
      .map((it, at) => ({ ...it, key: [it.protocol, it.vip, at] }));
    showSessions(shown);
    const isMore = sessions.length > sessionsShown;
    byId("more-sessions").hidden = !isMore;
    const sessionsText = shown.length === 1 ? "1 session" : `${shown.length} sessions`;
    const found = isMore ? `The first ${sessionsText}` : `${sessionsText}, all that match`;
    say(note, `${found}, at ${time(new Date())}.`);
  } catch (error) {
    showSessions([]);
    byId("more-sessions").hidden = true;
    say(note, error instanceof Refused ? error.message : "The balancer does not answer.");
  }
}

/**
 * A change that the operator is asked to confirm.
 * @typedef {{ title: string, text: string, action: string, path: string,
 *   body: (value: number | null) => any, field?: { label: string, max: number, value: string } }} Change
 */

/** @type {Change | null} */
let asked = null;

/** Opens the dialog. @param {Change} change */
function confirmChange(change) {
  asked = change;
  say(byId("confirm-title"), change.title);
  say(byId("confirm-text"), change.text);
  say(byId("confirm-do"), change.action);
  say(byId("confirm-error"), "");
  const [field, input] = [change.field, byId("confirm-value")];
  byId("confirm-field").hidden = !field;
  say(byId("confirm-field").querySelector("label"), field?.label ?? "");
  input.max = field?.max ?? "";
  input.value = field?.value ?? "";
  byId("confirm").showModal();
}

/** Sends the change that the dialog asks about. @param {Event} event */
async function sendChange(event) {
  event.preventDefault();
  if (!asked) return;
  const { path, body, title, field } = asked;
  const value = field && byId("confirm-value").value !== "" ? Number(byId("confirm-value").value) : null;
  byId("confirm-do").disabled = true;
  try {
    const answer = await ask(path, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body(value)),
    });
    const text = (await answer.text()).trim();
    byId("confirm").close();
    say(byId("done"), `Done at ${time(new Date())}: ${title}${text ? `: ${text}` : ""}`);
    poll();
  } catch (error) {
    const unknown = "The balancer does not answer; look whether it was done.";
    say(byId("confirm-error"), error instanceof Refused ? error.message : unknown);
  }
  byId("confirm-do").disabled = false;
}

/** Asks whether to change a backend. @param {string} change @param {any} it */
function askChange(change, it) {
  const { service } = it;
  const backend = title(it.backend);
  const name = `${backend} of ${service}`;
  const state = { path: "v1/backends", body: () => ({ service, backend, state: change }) };
  /** @type {Record<string, Change>} */
  const changes = {
    enable: {
      ...state, title: `Enable ${name}`, action: "Enable",
      text: "Its health decides whether it takes new sessions.",
    },
    disable: {
      ...state, title: `Disable ${name}`, action: "Disable",
      text: "It counts as down, and takes no new sessions.",
    },
    drain: {
      title: `Drain ${name}`, action: "Drain", path: "v1/backends",
      text: "It keeps its sessions and takes no new ones.",
      field: { label: "Seconds until its sessions end (empty: drain_timeout)", max: 1e9, value: "" },
      body: (within) => ({ service, backend, state: "drain", within_s: within }),
    },
    weight: {
      title: `Weight of ${name}`, action: "Set the weight", path: "v1/backends/weight",
      text: `It is ${it.backend.weight} now, and ${it.backend.configured_weight ?? "nothing"} in the config.`,
      field: {
        label: "Weight, 0 to 65535 (empty: that of the config)", max: 65_535,
        value: String(it.backend.weight),
      },
      body: (weight) => ({ service, backend, weight }),
    },
  };
  confirmChange(changes[change]);
}

/** @param {string} module */
function askRollBack(module) {
  confirmChange({
    title: `Roll back ${module}`, action: "Roll back", path: "v1/modules/rollback",
    text: "Its newest build in use is quarantined, and the one before it serves.",
    body: () => ({ module }),
  });
}

/** Takes the token that was written. @param {Event} event */
function takeToken(event) {
  event.preventDefault();
  const token = byId("token").value.trim();
  byId("token").value = "";
  // Others cannot be sent in a header.
  if (!/^[\x21-\x7e]+$/.test(token)) {
    say(byId("token-error"), "This is not the balancer's token.");
    return;
  }
  sessionStorage.setItem(TOKEN, token);
  byId("ask").hidden = true;
  say(byId("token-error"), "");
  poll();
}

byId("token-form").addEventListener("submit", takeToken);
byId("forget").addEventListener("click", () => forget(""));
byId("confirm-form").addEventListener("submit", sendChange);
byId("confirm-cancel").addEventListener("click", () => byId("confirm").close());
byId("service-form").addEventListener("submit", (/** @type {Event} */ event) => event.preventDefault());
byId("service-filter").addEventListener("input", () => {
  servicesShown = SERVICES_STEP;
  if (latest) show();
});
byId("more-services").addEventListener("click", () => {
  servicesShown += SERVICES_STEP;
  show();
});
byId("session-form").addEventListener("submit", (/** @type {Event} */ event) => {
  event.preventDefault();
  sessionsShown = SESSIONS_STEP;
  searchSessions();
});
byId("more-sessions").addEventListener("click", () => {
  sessionsShown += SESSIONS_STEP;
  searchSessions();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) following?.abort();
  else poll();
});
poll();
