// @ts-check
/*
 * How the page builds and changes its document.
 *
 * Invariant: names, reasons and events come from outside; they become text and never markup.
 */

/** @param {string} id @returns {any} the element of the document with this id */
export const byId = (id) => document.getElementById(id);

/**
 * Makes an element.
 * @param {string} tag
 * @param {Record<string, any>} [attributes] a function is a listener of the event so named
 * @param {...(Node | string)} children
 * @returns {any}
 */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/**
 * Sets a text where it differs: what a screen reader has read stays as it is.
 * @param {any} element
 * @param {string} text
 */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * A part of the page that shows one item and is brought up to date.
 * @typedef {{ element: Element, update: (item: any) => void }} View
 */

/** @type {WeakMap<Element, Map<string, View>>} */
const shown = new WeakMap();

/**
 * Shows items in their order, and keeps the elements of those that are there already, with the focus in them.
 * @param {Element} parent
 * @param {any[]} items
 * @param {(item: any) => string} key names an item, each otherwise
 * @param {(item: any) => View} view
 */
export function list(parent, items, key, view) {
  const before = shown.get(parent) ?? new Map();
  const now = new Map();
  for (const item of items) {
    const name = key(item);
    const of = before.get(name) ?? view(item);
    of.update(item);
    now.set(name, of);
  }
  for (const [name, of] of before) if (!now.has(name)) of.element.remove();
  let next = parent.firstElementChild;
  for (const { element } of now.values()) {
    if (element === next) next = element.nextElementSibling;
    else parent.insertBefore(element, next);
  }
  shown.set(parent, now);
}

/**
 * Makes a table, whose rows are stacked on narrow screens; the roles keep it a table there.
 * @param {string} label
 * @param {string[]} columns
 */
export function table(label, columns) {
  const heads = columns.map((column) => make("th", { role: "columnheader", scope: "col" }, column));
  const body = make("tbody", { role: "rowgroup" });
  const head = make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, ...heads));
  return { element: make("table", { role: "table", "aria-label": label }, head, body), body };
}

/**
 * Makes a table's row, a cell for each column.
 * @param {string[]} columns
 * @param {Node[]} cells the first one names the row
 */
export function row(columns, cells) {
  const cell = (/** @type {Node} */ content, /** @type {number} */ at) =>
    at === 0
      ? make("th", { role: "rowheader", scope: "row" }, content)
      : make("td", { role: "cell", "data-label": columns[at] }, content);
  return make("tr", { role: "row" }, ...cells.map(cell));
}

/**
 * Makes a table's row of texts, as a view of an item.
 * @param {string[]} columns
 * @param {(item: any) => string[]} texts
 * @returns {(item: any) => View}
 */
export const textRow = (columns, texts) => () => {
  const cells = columns.map(() => make("span"));
  return {
    element: row(columns, cells),
    update: (item) => texts(item).forEach((text, at) => say(cells[at], text)),
  };
};
