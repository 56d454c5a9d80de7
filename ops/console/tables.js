// Rows of tables and lists from what the node has said. Everything is put in as text, never as markup.

/** An element with a class and children, which are elements or text. */
export function make(name, className, ...children) {
  const element = document.createElement(name);
  if (className) element.className = className;
  element.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return element;
}

/** A cell with a number. */
export function number(text) {
  return make("td", "number", text);
}

/** A cell with words. */
export function words(...children) {
  return make("td", "word", ...children);
}

/** A cell with a key, whose lines end between bytes. */
export function keyCell(text) {
  const parts = text.split(/(?<=\\x[0-9a-f]{2})/);
  return make("td", "key", make("code", "", ...parts.flatMap((part) => [part, make("wbr", "")])));
}

/** The head of a row. */
export function head(...children) {
  const cell = make("th", "", ...children);
  cell.scope = "row";
  return cell;
}

/** A word that stands out: `kind` is good, warm or bad. */
export function mark(kind, text) {
  return make("span", `mark ${kind}`, text);
}

/** Puts rows, each a list of cells, into the body of a table; a sentence if there are none. */
export function fill(id, rows, nothing) {
  const table = document.getElementById(id);
  const body = table.tBodies[0];
  if (rows.length > 0) {
    body.replaceChildren(...rows.map((cells) => (cells instanceof Node ? cells : make("tr", "", ...cells))));
    return;
  }
  const cell = make("td", "", nothing);
  cell.colSpan = table.tHead.rows[0].cells.length;
  body.replaceChildren(make("tr", "empty", cell));
}

/** A row that heads a group of others. */
export function group(id, ...children) {
  const cell = make("th", "", ...children);
  cell.scope = "rowgroup";
  cell.colSpan = document.getElementById(id).tHead.rows[0].cells.length;
  return make("tr", "group", cell);
}

/** Puts names and figures into a list of definitions. */
export function figures(id, pairs) {
  const one = ([name, value]) => make("div", "", make("dt", "", name), make("dd", "", value));
  document.getElementById(id).replaceChildren(...pairs.map(one));
}

/** Says something in an element, or hides it. Text that stays is not touched, so that no reader hears it again. */
export function say(id, text) {
  const element = document.getElementById(id);
  const said = text ?? "";
  if (element.textContent !== said) element.textContent = said;
  element.hidden = said === "";
}
