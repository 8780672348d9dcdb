// @ts-check
/*
 * Modules, sessions, drops and events.
 */

import { byId, list, make, say, table, textRow } from "./nodes.js";
import { clock, date, perSecond, span } from "./model.js";
import { reasonItem } from "./services.js";

/** The most events that are shown. */
const EVENTS_MAX = 200;

/** @param {any} build @returns {string} such as `Round robin 1.2, digest 0123456789ab` */
const buildText = (build) =>
  `${build.title} ${build.version}, digest ${build.hash}, ${build.source}, since ${date(build.since)}` +
  (build.unavailable_picks > 0 ? `, ${build.unavailable_picks} picks of unavailable backends` : "");

/** @param {any} module @returns {string[]} what an operator should look at */
function moduleNews(module) {
  const { refused, last_fault: fault, quarantined } = module;
  const texts = [];
  if (refused) {
    const what = refused.hash ?? "an unreadable file";
    texts.push(`refused ${what} at ${date(refused.at)}: ${refused.reason}`);
  }
  if (fault) texts.push(`last fault, build ${fault.hash} at ${date(fault.at)}: ${fault.text}`);
  for (const build of quarantined) {
    texts.push(`quarantined ${build.hash.slice(0, 12)} at ${date(build.at)}: ${build.reason}`);
  }
  return texts;
}

/**
 * A module's card.
 * @param {any} first
 * @param {(module: string) => void} rollBack
 */
function moduleCard(first, rollBack) {
  const [serving, canary, faults] = [make("p"), make("p"), make("p")];
  const [news, steps] = [make("ul", { class: "problems" }), make("ol")];
  const count = make("summary");
  const click = () => rollBack(first.name);
  const attributes = { type: "button", "aria-label": `Roll back ${first.name}`, click };
  const button = make("button", attributes, "Roll back");
  const kind = first.kind === "check" ? "health check" : "policy";
  const element = make("article", { class: "card", "aria-label": first.name },
    make("h3", {}, first.name, " ", make("small", {}, kind)),
    serving, canary, faults, news, make("details", {}, count, steps),
    make("p", { class: "buttons" }, button));
  const update = (/** @type {any} */ module) => {
    say(serving, module.serving ? `Serves: ${buildText(module.serving)}.` : "No build serves.");
    const left = span((module.canary?.left_ms ?? 0) / 1000);
    say(canary, module.canary ? `Canary on worker 0, ${left} more: ${buildText(module.canary.build)}.` : "");
    say(faults, module.faults === 0 ? "No faults." : `Faults since the start: ${module.faults}.`);
    list(news, moduleNews(module), (text) => text, reasonItem);
    say(count, `History (${module.steps.length})`);
    const step = (/** @type {any} */ it) => `${date(it.at)}: ${it.hash} ${it.text}`;
    list(steps, module.steps.map(step).reverse(), (text) => text, reasonItem);
  };
  return { element, update };
}

/** @param {any[]} modules @param {(module: string) => void} rollBack */
export function showModules(modules, rollBack) {
  const key = (/** @type {any} */ module) => `${module.kind} ${module.name}`;
  list(byId("module-cards"), modules, key, (module) => moduleCard(module, rollBack));
}

/**
 * Makes a table that shows items.
 * @param {string} place the id of what it is put into
 * @param {string} label
 * @param {string[]} columns
 * @param {(item: any) => string[]} texts
 * @returns {(items: any[]) => void}
 */
function tableOf(place, label, columns, texts) {
  const { element, body } = table(label, columns);
  byId(place).append(element);
  element.hidden = true;
  const view = textRow(columns, texts);
  return (items) => {
    element.hidden = items.length === 0;
    list(body, items, (item) => texts(item)[0] + JSON.stringify(item.key ?? item.reason), view);
  };
}

/** Shows dropped packets by reason. */
export const showDrops = tableOf("drops", "Dropped packets", ["Reason", "A second", "Since the start"],
  (drop) => [drop.reason, perSecond(drop.rate), `${drop.packets} packets`]);

/** Shows sessions. */
export const showSessions = tableOf("session-list", "Sessions",
  ["Client", "Service", "VIP", "Backend", "Phase", "Age", "Idle", "Source"], (it) =>
  [it.client, it.service, `${it.protocol} ${it.vip}`, it.backend, it.phase, span(it.age_ms / 1000),
    span(it.idle_ms / 1000), it.source ?? "the client's"]);

/** Shows an event, above those before it. @param {any} event */
export function showEvent(event) {
  const events = byId("event-list");
  events.prepend(make("li", { class: event.severity },
    make("time", { datetime: new Date(1000 * event.at).toISOString() }, clock(event.at)), " ",
    make("strong", {}, event.severity), " ", make("span", { class: "area" }, event.area), " ", event.text));
  while (events.childElementCount > EVENTS_MAX) events.lastElementChild?.remove();
}

/** Forgets the events: another process counts from 1. */
export const forgetEvents = () => byId("event-list").replaceChildren();
