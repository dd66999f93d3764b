// Lets a page's tables be sorted by a click on a header; without scripts the page stays as it is.
// Each header becomes a button: ascending, descending, and back to the report's own order. Numbers are ordered by what
// they mean (`1.2 ms` after `900 µs`, `<0.1%` below `0.1%`, `never` above every number); a dash stands last either way.
"use strict";
const seconds = { "µs": 1e-6, ms: 1e-3, s: 1, min: 60 };
const missing = (text) => ["", "\u2013", "not run", "failed"].includes(text);
function meaning(text) {
  if (text.startsWith("never")) return Infinity;
  const found = /^([<>]?)([+-]?[\d,]*\.?\d+(?:e[+-]?\d+)?)(?: (µs|ms|s|min)\b)?/.exec(text);
  if (!found) return NaN;
  const number = Number(found[2].replaceAll(",", "")) * (seconds[found[3]] ?? 1);
  const beyond = { "<": -1, ">": 1, "": 0 }[found[1]];
  return number + beyond * 1e-6 * Math.max(1e-3, Math.abs(number));
}
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0], rows = [...body.rows], headers = [...table.tHead.rows[0].cells];
  if (rows.length < 2) continue;
  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = header.textContent;
    header.replaceChildren(button);
    const text = (row) => row.cells[column].textContent.trim();
    // The first column names the row: a class called 10 or a setting that begins with a number is no quantity.
    const numeric = column > 0 && rows.every((row) => missing(text(row)) || !Number.isNaN(meaning(text(row))));
    const order = (a, b) => numeric
      ? (meaning(a) === meaning(b) ? 0 : meaning(a) - meaning(b))
      : a.localeCompare(b, "en", { numeric: true });
    button.addEventListener("click", () => {
      const way = { none: "ascending", ascending: "descending" }[header.getAttribute("aria-sort") ?? "none"];
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      if (!way) return body.append(...rows);
      header.setAttribute("aria-sort", way);
      body.append(...[...rows].sort((one, other) => {
        const a = text(one), b = text(other);
        if (missing(a) || missing(b)) return missing(a) - missing(b);
        return way === "ascending" ? order(a, b) : order(b, a);
      }));
    });
  });
}
