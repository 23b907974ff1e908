// A heading sorts its table: a click, or Enter and Space, for it is a button. Missing values stay last.
for (const table of document.querySelectorAll("table[data-table]")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  heads.forEach((head, i) => {
    const at = heads.slice(0, i).reduce((sum, other) => sum + other.colSpan, 0);
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const sign = down ? -1 : 1;
      const rows = [...body.rows].map((row) => [read(row.cells[at]), row]);
      rows.sort(([a], [b]) => (a === null) - (b === null) || sign * compare(a, b));
      body.append(...rows.map(([, row]) => row));
    });
  });
}

function read(cell) {
  if (cell.classList.contains("none")) return null;
  return cell.dataset.value === undefined ? cell.textContent : number(cell.dataset.value);
}

function number(text) {
  return text === "inf" ? Infinity : text === "-inf" ? -Infinity : Number(text);
}

function compare(a, b) {
  if (a === null || a === b) return 0;
  return typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b;
}

// On paper everything is open.
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  folded.forEach((part) => (part.open = true));
});
addEventListener("afterprint", () => folded.forEach((part) => (part.open = false)));
