// @ts-check
/*
 * The numbers of the page: rates and shares by the counters of the last seconds, and how they are written.
 *
 * Invariant: a rate is the difference of a counter between two answers, by the time between them. A counter
 * that fell has started again; what is new since has no rate yet.
 */

/** How long the rates look back, in milliseconds. */
const WINDOW_MS = 5000;

/**
 * What happened a second.
 * @typedef {{ new: number, failed: number, packets: number, bits: number }} Rates
 */

const NONE = { new: 0, failed: 0, packets: 0, bits: 0 };

/** @param {string} address @param {number | null} port */
export const endpoint = (address, port) =>
  port === null ? address : address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`;

/** @param {any} backend @returns {string} the name by which requests find it */
export const title = (backend) => backend.name ?? endpoint(backend.address, backend.port);

/** @param {string} service @param {any} backend */
const key = (service, backend) => JSON.stringify([service, title(backend)]);

/** @param {any} drop */
const dropKey = (drop) => JSON.stringify([drop.service, drop.reason]);

/** @param {any} it a backend's status @returns {Rates} its counters */
const counts = (it) => ({
  new: it.sessions,
  failed: it.refused + it.unanswered,
  packets: it.forward.packets + it.reply.packets,
  bits: 8 * (it.forward.bytes + it.reply.bytes),
});

/** The counters of the last seconds. */
export class Samples {
  /** @type {{ at: number, backends: Map<string, Rates>, drops: Map<string, number> }[]} */
  #kept = [];

  /** Forgets all: another process counts from the start. */
  clear() {
    this.#kept = [];
  }

  /**
   * Adds the counters of an answer.
   * @param {number} at when it came, in milliseconds
   * @param {any} status
   * @param {any[]} drops
   */
  add(at, status, drops) {
    const backends = new Map();
    for (const service of status.services) {
      for (const backend of service.backends) backends.set(key(service.name, backend), counts(backend));
    }
    this.#kept.push({ at, backends, drops: new Map(drops.map((drop) => [dropKey(drop), drop.packets])) });
    while (this.#kept.length > 2 && this.#kept[1].at <= at - WINDOW_MS) this.#kept.shift();
  }

  /** Over how many seconds the rates are; 0 while there are none. */
  get seconds() {
    const [first, last] = [this.#kept[0], this.#kept.at(-1)];
    return first && last ? (last.at - first.at) / 1000 : 0;
  }

  /** @param {string} service @param {any} backend @returns {Rates} */
  rates(service, backend) {
    const name = key(service, backend);
    const now = this.#kept.at(-1);
    const first = this.#kept.find((sample) => sample.backends.has(name));
    const [after, before] = [now?.backends.get(name), first?.backends.get(name)];
    if (!now || !first || now === first || !after || !before) return NONE;
    const seconds = (now.at - first.at) / 1000;
    const rate = (/** @type {keyof Rates} */ of) => Math.max(0, after[of] - before[of]) / seconds;
    return { new: rate("new"), failed: rate("failed"), packets: rate("packets"), bits: rate("bits") };
  }

  /** @param {any} drop @returns {number} packets a second; its first packet was after what has none of it */
  dropRate(drop) {
    if (this.seconds === 0) return 0;
    const before = this.#kept[0].drops.get(dropKey(drop)) ?? 0;
    return Math.max(0, drop.packets - before) / this.seconds;
  }

  /**
   * A service with its rates, and its backends with theirs and their shares: of the weights and of the new
   * sessions, from 0 to 1; null if there are none.
   * @param {any} service
   */
  service(service) {
    const backends = service.backends.map((/** @type {any} */ backend) => ({
      service: service.name,
      backend,
      title: title(backend),
      rates: this.rates(service.name, backend),
    }));
    const sum = (/** @type {(it: any) => number} */ of) =>
      backends.reduce((/** @type {number} */ sum, /** @type {any} */ it) => sum + of(it), 0);
    const rates = {
      new: sum((it) => it.rates.new),
      failed: sum((it) => it.rates.failed),
      packets: sum((it) => it.rates.packets),
      bits: sum((it) => it.rates.bits),
    };
    const weights = sum((it) => it.backend.weight);
    for (const it of backends) {
      it.weight = weights > 0 ? it.backend.weight / weights : null;
      it.share = rates.new > 0 ? it.rates.new / rates.new : null;
    }
    return { service, rates, backends };
  }
}

const PREFIXES = ["", "k", "M", "G", "T"];

/** @param {number} value @param {string} unit @returns {string} such as `1.2 Mbit/s` */
export function scaled(value, unit) {
  let at = 0;
  while (value >= 999.5 && at < PREFIXES.length - 1) {
    value /= 1000;
    at += 1;
  }
  const text = value === 0 ? "0" : value < 10 ? value.toFixed(1) : value.toFixed(0);
  return `${text} ${PREFIXES[at]}${unit}`;
}

/** @param {number} bits a second */
export const bits = (bits) => scaled(bits, "bit/s");

/** @param {number} value @returns {string} such as `12.3 /s` */
export const perSecond = (value) => scaled(value, "/s");

/** @param {number | null} part from 0 to 1 */
export const percent = (part) => (part === null ? "–" : `${(100 * part).toFixed(0)} %`);

/** @param {number} microseconds 0: not measured */
export const milliseconds = (microseconds) =>
  microseconds === 0 ? "not measured" : `${(microseconds / 1000).toPrecision(3)} ms`;

/** @param {number} seconds since 1970 */
export const clock = (seconds) => new Date(1000 * seconds).toLocaleTimeString("en-GB");

/** @param {number} seconds since 1970 */
export const date = (seconds) => new Date(1000 * seconds).toLocaleString("en-GB");

/** @param {number} seconds @returns {string} such as `2 h 5 min` */
export function span(seconds) {
  const units = /** @type {const} */ ([[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]]);
  const at = units.findIndex(([unit]) => seconds >= unit);
  if (at < 0) return "0 s";
  const parts = units.slice(at, at + 2).map(([unit, name]) => {
    const count = Math.floor(seconds / unit);
    seconds -= count * unit;
    return count > 0 ? `${count} ${name}` : "";
  });
  return parts.filter((part) => part !== "").join(" ");
}
