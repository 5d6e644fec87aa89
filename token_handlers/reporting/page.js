"use strict";
// Tables by label: sorted by the heads of their columns, filtered by name, folded to the first rows.
const SHOWN = 10;

function number(cell) {
  const data = cell.querySelector("data");
  return Number(data ? data.value : cell.textContent.replaceAll(",", ""));
}

function name(row) {
  return row.cells[0].querySelector(".name").textContent;
}

// The table's own roles, which some browsers forget where a style sheet turns rows into blocks.
function keepRoles(table) {
  const roles = { TABLE: "table", THEAD: "rowgroup", TBODY: "rowgroup", TFOOT: "rowgroup", TR: "row", TD: "cell" };
  for (const element of [table, ...table.querySelectorAll("thead, tbody, tfoot, tr, th, td")]) {
    const head = element.scope === "col" ? "columnheader" : "rowheader";
    element.setAttribute("role", roles[element.tagName] || head);
  }
}

function makeSortable(table, update) {
  const heads = [...table.tHead.rows[0].cells];
  const names = new Intl.Collator(undefined, { numeric: true });
  heads.forEach((head, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const first = index ? "descending" : "ascending";
      const second = index ? "ascending" : "descending";
      const order = head.getAttribute("aria-sort") === first ? second : first;
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const keys = new Map([...table.tBodies[0].rows].map((row) => [row, index ? number(row.cells[index]) : name(row)]));
      const compare = index ? (a, b) => a - b : names.compare;
      const rows = [...keys.keys()].sort((a, b) => sign * compare(keys.get(a), keys.get(b)));
      table.tBodies[0].append(...rows);
      update();
    });
  });
}

function enhance(section) {
  const table = section.querySelector("table");
  const filter = section.querySelector(".filter");
  const more = section.querySelector(".more");
  const rows = [...table.tBodies[0].rows];
  const field = filter.querySelector("input");
  const found = filter.querySelector(".found");
  let open = false;

  function update() {
    const words = field.value.trim().toLowerCase();
    let matching = 0;
    [...table.tBodies[0].rows].forEach((row) => {
      const matches = name(row).toLowerCase().includes(words);
      matching += matches;
      row.hidden = !matches || (!open && !words && matching > SHOWN);
    });
    found.textContent = words ? `${matching.toLocaleString("en")} of ${rows.length.toLocaleString("en")}` : "";
    more.hidden = Boolean(words) || rows.length <= SHOWN;
    more.textContent = open ? `Show the first ${SHOWN}` : `Show ${(rows.length - SHOWN).toLocaleString("en")} more`;
    more.setAttribute("aria-expanded", open);
  }

  keepRoles(table);
  makeSortable(table, update);
  filter.hidden = rows.length < 2;
  field.addEventListener("input", update);
  more.addEventListener("click", () => {
    open = !open;
    update();
  });
  update();
}

document.querySelectorAll("section.by-label").forEach(enhance);
