// @ts-check
/*
 * The services: a card for each with its backends, and the picture of where traffic goes.
 */

import { byId, list, make, row, say, table } from "./nodes.js";
import { bits, endpoint, milliseconds, percent, perSecond, span } from "./model.js";

/** A state's sign beside its word; the others are bad. @type {Record<string, string>} */
const SIGNS = {
  ok: "✓", up: "✓", degraded: "!", checking: "…", unchecked: "?", draining: "⇣", disabled: "–",
};

/** Shows a state by its word, a sign and a colour. @param {any} element @param {string} state */
export function sayState(element, state) {
  say(element, `${SIGNS[state] ?? "✗"} ${state}`);
  element.className = `state ${state}`;
}

/** @param {any} service */
const address = (service) => `${service.protocol} ${service.vip} port ${service.port}`;

const COLUMNS = ["Backend", "Health", "Share of new sessions", "New", "Active", "Traffic", "Connects in",
  "Failed", "Change"];

/** @param {any} backend @returns {string} why it is in its state, since when, and its checks' last results */
function why(backend) {
  const { health, next_hop: hop } = backend;
  if (!health) return "";
  const failing = (/** @type {any} */ it) => it.state !== "passing" && it.reason !== health.reason;
  const parts = [
    health.reason,
    ...health.checks.filter(failing).map((/** @type {any} */ it) => `${it.check} ${it.state}: ${it.reason}`),
    hop.resolved || health.state === "unreachable" ? "" : `next hop: ${hop.state}`,
    `for ${span(Math.max(0, Date.now() / 1000 - health.since))}`,
  ];
  return parts.filter((part) => part).join("; ");
}

/** @param {any} it a backend with its share @returns {string} */
function shareText(it) {
  const { backend } = it;
  const by = backend.health?.operator_weight ?? null;
  const asked = by === null ? "" : `, set to ${by}`;
  return `${percent(it.share)} (weight ${backend.weight}: ${percent(it.weight)}${asked})`;
}

/** @param {any} backend */
function failedText(backend, rate = 0) {
  const { refused, unanswered } = backend;
  if (refused + unanswered === 0) return "none";
  return `${perSecond(rate)}; ${refused} refused, ${unanswered} unanswered`;
}

/**
 * A backend's row.
 * @param {any} first
 * @param {(change: string, it: any) => void} change
 * @returns {import("./nodes.js").View}
 */
function backendRow(first, change) {
  let latest = first;
  const [state, reason, share, rate, active, traffic, connect, failed] =
    Array.from({ length: 8 }, () => make("span"));
  const [bar, mark] = [make("span", { class: "bar" }), make("span", { class: "mark" })];
  const gauge = make("span", { class: "gauge", "aria-hidden": "true" }, bar, mark);
  const buttons = ["drain", "disable", "enable", "weight"].map((name) => {
    const text = name[0].toUpperCase() + name.slice(1);
    const label = `${text} ${first.title} of ${first.service}`;
    const click = () => change(name, latest);
    return make("button", { type: "button", "aria-label": label, click }, text);
  });
  const { backend, title } = first;
  const where = endpoint(backend.address, backend.port);
  const element = row(COLUMNS, [
    make("span", {}, title, ...(title === where ? [] : [make("small", {}, ` ${where}`)])),
    make("span", {}, state, " ", make("small", {}, reason)),
    make("span", {}, gauge, " ", share),
    rate, active, traffic, connect, failed,
    make("span", { class: "buttons" }, ...buttons),
  ]);
  reason.className = "reason";
  const update = (/** @type {any} */ it) => {
    latest = it;
    const { backend, rates } = it;
    sayState(state, backend.health?.state ?? "unknown");
    say(reason, why(backend));
    say(share, shareText(it));
    bar.style.width = percent(it.share ?? 0).replace(" ", "");
    mark.style.left = percent(it.weight ?? 0).replace(" ", "");
    say(rate, perSecond(rates.new));
    say(active, `${backend.active}${backend.half_open > 0 ? ` + ${backend.half_open} half-open` : ""}`);
    say(traffic, bits(rates.bits));
    say(connect, milliseconds(backend.latency_us));
    say(failed, failedText(backend, rates.failed));
  };
  return { element, update };
}

/**
 * A service's card.
 * @param {any} first
 * @param {(change: string, it: any) => void} change
 * @returns {import("./nodes.js").View}
 */
function card(first, change) {
  const { service } = first;
  const [state, numbers, drops] = [make("span"), make("p"), make("p")];
  const reasons = make("ul", { class: "problems" });
  const { element: backends, body } = table(`Backends of ${service.name}`, COLUMNS);
  const head = make("h3", {}, service.name, " ", state);
  const about = make("p", { class: "note" }, `${address(service)}, policy ${service.policy}`);
  const element = make("article", { class: "card", "aria-label": service.name },
    head, about, numbers, reasons, backends, drops);
  const update = (/** @type {any} */ it) => {
    const { service, rates, health } = it;
    sayState(state, health?.state ?? "unknown");
    const up = health ? `${health.up} of ${health.backends} backends up, ` : "";
    say(about, `${address(service)}, policy ${service.policy}`);
    say(numbers, `${up}${perSecond(rates.new)} new sessions, ${service.active} active, ` +
      `${service.half_open} half-open, ${service.closing} closing, ${bits(rates.bits)}, ` +
      `${perSecond(rates.failed)} failed`);
    list(reasons, health?.reasons ?? [], (text) => text, reasonItem);
    list(body, it.backends, (backend) => backend.title, (backend) => backendRow(backend, change));
    const dropped = it.drops.map((/** @type {any} */ drop) =>
      `${drop.reason} ${perSecond(drop.rate)} (${drop.packets} since the start)`);
    say(drops, dropped.length === 0 ? "Dropped packets: none." : `Dropped packets: ${dropped.join(", ")}.`);
  };
  return { element, update };
}

/** A line of a list of reasons. @param {string} text */
export function reasonItem(text) {
  const element = make("li");
  return { element, update: (/** @type {string} */ text) => say(element, text) };
}

/**
 * Shows services as cards.
 * @param {any[]} services with their rates, health and drops
 * @param {(change: string, it: any) => void} change
 */
export function showCards(services, change) {
  list(byId("cards"), services, (it) => it.service.name, (it) => card(it, change));
}

/** The most services of the picture, and the most backends of each. */
const DRAWN = { services: 6, backends: 6 };
/** The height of a backend's line of the picture, and the widest line between two boxes, in pixels. */
const [STEP, WIDEST] = [26, 12];

/** @param {string} tag @param {Record<string, any>} attributes @param {string} [text] */
function svg(tag, attributes, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(text);
  return element;
}

/**
 * Draws the way of traffic: clients, ports, services, backends. The wider a line, the more bits a second.
 * @param {any[]} all services with their rates
 * @param {any[]} ports
 */
export function draw(all, ports) {
  const busiest = [...all].sort((a, b) => b.rates.bits - a.rates.bits).slice(0, DRAWN.services);
  const width = Math.max(280, byId("picture").clientWidth);
  const columns = [0, 0.2, 0.42, 0.72].map((part) => Math.round(part * width));
  const box = Math.round(width * 0.15);
  const widths = [box, box, Math.round(width * 0.2), width - columns[3]];
  const most = Math.max(1, ...all.map((it) => it.rates.bits));
  const nodes = /** @type {Element[]} */ ([]);
  const lines = /** @type {Element[]} */ ([]);
  /** @param {number} column @param {number} y @param {string} text */
  const put = (column, y, text, state = "") => {
    const [x, room] = [columns[column], Math.floor((widths[column] - 10) / 6.6)];
    const short = text.length > room ? `${text.slice(0, Math.max(1, room - 1))}…` : text;
    const size = { width: widths[column], height: 20, rx: 4 };
    nodes.push(svg("rect", { x, y: y - 10, ...size, class: `box ${state}` }));
    nodes.push(svg("text", { x: x + 5, y: y + 4 }, short));
  };
  /** @param {number} from @param {number} y1 @param {number} y2 @param {number} rate */
  const join = (from, y1, y2, rate) => {
    const [x1, x2] = [columns[from] + widths[from], columns[from + 1]];
    const middle = (x1 + x2) / 2;
    const d = `M${x1} ${y1} C${middle} ${y1} ${middle} ${y2} ${x2} ${y2}`;
    lines.push(svg("path", { d, class: "line", "stroke-width": 1 + (WIDEST - 1) * Math.sqrt(rate / most) }));
  };
  const heights = busiest.map((it) => Math.max(1, Math.min(it.backends.length, DRAWN.backends)));
  const rows = Math.max(1, heights.reduce((sum, height) => sum + height + 1, -1));
  const middle = (rows * STEP) / 2 + 4;
  const total = all.reduce((sum, it) => sum + it.rates.bits, 0);
  put(0, middle, "clients");
  const isUp = ports.every((port) => port.link_up);
  put(1, middle, ports.map((port) => port.interface).join(", "), isUp ? "" : "down");
  join(0, middle, middle, Math.min(total, most));
  let top = 0;
  busiest.forEach((it, at) => {
    const y = (top + heights[at] / 2) * STEP + 4;
    put(2, y, it.service.name, it.health?.state);
    join(1, middle, y, it.rates.bits);
    it.backends.slice(0, DRAWN.backends).forEach((/** @type {any} */ of, /** @type {number} */ n) => {
      const line = (top + n + 0.5) * STEP + 4;
      put(3, line, `${of.title}  ${bits(of.rates.bits)}`, of.backend.health?.state);
      join(2, y, line, of.rates.bits);
    });
    top += heights[at] + 1;
  });
  const height = rows * STEP + 8;
  const told = (/** @type {any} */ of) => `${of.title} ${bits(of.rates.bits)}`;
  const says = busiest.map((it) => {
    const backends = it.backends.slice(0, DRAWN.backends).map(told);
    return `${it.service.name} ${bits(it.rates.bits)}: ${backends.join(", ")}`;
  });
  const label = `Clients to ports to services to backends. ${says.join(". ")}`;
  const viewBox = `0 0 ${width} ${height}`;
  const picture = svg("svg", { viewBox, width, height, role: "img", "aria-label": label });
  picture.append(...lines, ...nodes);
  byId("picture").replaceChildren(picture);
  const isPart = all.length > busiest.length || all.some((it) => it.backends.length > DRAWN.backends);
  const links = ports.map((port) => `${port.interface} ${port.link_up ? "up" : "down"}`).join(", ");
  const part = ` Of ${all.length} services the ${busiest.length} with the most traffic, ` +
    `and of each at most ${DRAWN.backends} backends.`;
  say(byId("picture-note"), "The wider a line, the more bits a second, both directions. " +
    `Ports: ${links}.${isPart ? part : ""}`);
}
