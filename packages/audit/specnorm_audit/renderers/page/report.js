"use strict";
// Sorting: headings become buttons. Without this script the tables are complete, in the model's order.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => sort(table, headings, column));
  });
}

function sort(table, headings, column) {
  const heading = headings[column];
  const numeric = heading.dataset.type === "number";
  const before = heading.getAttribute("aria-sort");
  // A second click turns the order around. At the first one numbers descend, except for those of the model's order.
  const descending = before ? before === "ascending" : numeric && column > 0;
  const body = table.tBodies[0];
  const key = (row) => {
    const cell = row.cells[column];
    if (!numeric) return cell.textContent;
    return cell.dataset.value === "" ? null : Number(cell.dataset.value);
  };
  const compare = (a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === null || y === null) return (x === null) - (y === null); // always last
    const order = numeric ? x - y : x.localeCompare(y, "en", { numeric: true });
    return descending ? -order : order;
  };
  const rows = [...body.rows];
  const place = new Map(rows.map((row) => [row, Number(row.cells[0].dataset.value)]));
  body.append(...rows.sort((a, b) => compare(a, b) || place.get(a) - place.get(b)));
  headings.forEach((other) => other.removeAttribute("aria-sort"));
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
}
