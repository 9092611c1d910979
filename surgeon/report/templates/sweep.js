// The table of cuts: sorted by its heads, narrowed by a limit, and one row taken.
(() => {
  const { picked, sign, rows } = JSON.parse(document.getElementById("data").textContent);
  const table = document.getElementById("cuts");
  const body = table.tBodies[0];
  const most = document.getElementById("most");
  const only = document.getElementById("only");
  const shown = document.getElementById("shown");
  const taken = document.getElementById("taken");
  const byNumber = new Map(rows.map((row) => [row.at, row]));
  const line = (at) => body.querySelector(`tr[data-at="${at}"]`);
  const point = (at) => document.getElementById(`front-pick-${at}`);
  for (const row of rows) {
    const dot = point(row.at);
    if (dot) { dot.classList.add("point"); dot.addEventListener("click", () => take(row.at)); }
  }

  function take(at) {
    for (const row of rows) {
      line(row.at).classList.toggle("taken", row.at === at);
      line(row.at).querySelector("input").checked = row.at === at;
      const dot = point(row.at);
      if (dot) dot.classList.toggle("on", row.at === at);
    }
    const row = byNumber.get(at);
    if (!row) { taken.replaceChildren(made("p", { className: "muted" }, "No cut is taken.")); return; }
    const parts = [made("p", {}, made("b", {}, row.limit), `: latency ${row.said.ratio}, ${row.said.seconds}; in ${row.folder}`)];
    row.commands.forEach((command, n) => {
      const text = made("pre", { id: `taken-${n}`, tabIndex: 0 }, made("code", {}, command.text));
      text.setAttribute("aria-label", command.what);
      text.setAttribute("role", "region");
      const copy = made("button", { type: "button", className: "copy" }, "Copy");
      copy.dataset.copy = `taken-${n}`;
      copy.setAttribute("aria-label", `Copy: ${command.what}`);
      parts.push(made("div", { className: "command" }, made("h3", {}, command.what), copy, text));
    });
    taken.replaceChildren(...parts);
  }

  function narrow() {
    const bound = most.value === "" ? Infinity : Number(most.value);
    const inside = rows.filter((row) => (row.ratio === null ? bound === Infinity : row.ratio <= bound) && (!only.checked || row.front));
    const kept = new Set(inside.map((row) => row.at));
    for (const row of rows) {
      line(row.at).hidden = !kept.has(row.at);
      const dot = point(row.at);
      if (dot) dot.classList.toggle("away", !kept.has(row.at));
    }
    shown.textContent = `${inside.length} of ${rows.length} cuts`;
    const timed = inside.filter((row) => row.front);
    timed.sort((a, b) => sign * (b.quality - a.quality) || a.ratio - b.ratio);
    take(timed.length ? timed[0].at : null);
  }

  const value = (row, key) => (key === "limit" ? row.at : key === "front" ? Number(row.front) : row[key]);
  table.tHead.addEventListener("click", (event) => {
    const button = event.target.closest("button.sort");
    if (!button) return;
    const head = button.closest("th");
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.querySelectorAll("[aria-sort]")) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = head.dataset.key;
    const order = [...rows].sort((a, b) => {
      const [x, y] = [value(a, key), value(b, key)];
      if (x === null || y === null) return (x === null) - (y === null); // what was not measured stands last
      return down ? y - x : x - y;
    });
    body.append(...order.map((row) => line(row.at)));
  });
  body.addEventListener("change", (event) => take(Number(event.target.value)));
  most.addEventListener("input", narrow);
  only.addEventListener("change", narrow);
  take(picked);
})();
