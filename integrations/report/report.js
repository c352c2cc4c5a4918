"use strict";
(() => {
  const table = document.getElementById("images");
  if (!table) return;
  const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells];

  // Text of a cell, or its number; a dash, "nothing there", is last whichever way the column runs.
  const valueOf = (row, column) => {
    const cell = row.cells[column], text = cell.dataset.value ?? cell.textContent;
    if (text === "–") return null;
    return heads[column].classList.contains("number") ? Number(text) : text;
  };
  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));

  const sortBy = (column) => {
    const numeric = heads[column].classList.contains("number");
    const now = heads[column].getAttribute("aria-sort");
    const direction = now ? (now === "ascending" ? "descending" : "ascending") : numeric ? "descending" : "ascending";
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", direction);
    const sign = direction === "ascending" ? 1 : -1;
    const keyed = rows.map((row) => [valueOf(row, column), row]);
    keyed.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b)));
    body.append(...keyed.map(([, row]) => row));
  };

  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sortBy(column));
    head.append(button);
  });

  const filter = document.getElementById("filter"), matches = document.getElementById("matches");
  const show = () => {
    const wanted = filter.value.trim().toLowerCase();
    let count = 0;
    for (const row of rows) {
      row.hidden = !`${row.cells[1].textContent} ${row.cells[4].textContent}`.toLowerCase().includes(wanted);
      count += !row.hidden;
    }
    matches.textContent = count === rows.length ? `${count}` : `${count} of ${rows.length}`;
  };
  filter.addEventListener("input", show);
  document.getElementById("search").hidden = false;
  show();
})();
