// The network: a group is selected by a click or Enter, layers are found by their path.
(() => {
  const block = document.getElementById("data");
  if (!block) return;
  const { nodes, groups, layers } = JSON.parse(block.textContent);
  const box = document.getElementById("nodes");
  const rows = [...box.querySelectorAll("tbody tr")];
  const edges = [...box.querySelectorAll(".lanes path")];
  const detail = document.getElementById("detail");
  const find = document.getElementById("find");
  const found = document.getElementById("found");
  const said = document.getElementById("said");
  const byNode = new Map();
  for (const layer of layers) byNode.set(layer.node, [...(byNode.get(layer.node) || []), layer]);
  let at = 0; // the row that Tab comes to
  let group = null; // the group that is selected
  let hits = [];

  const title = (node) => node.layer || (node.op === "input" ? "input" : "(the model itself)");
  const shape = (sizes) => sizes.join("×");
  const number = (value) => value.toLocaleString("en");
  const channels = (g) => `${g.size} → ${g.kept} channels`;

  function facts(pairs) {
    const list = made("dl", {});
    for (const [key, value] of pairs) list.append(made("dt", {}, key), made("dd", {}, value));
    return list;
  }

  function link(text, act) {
    const button = made("button", { type: "button", className: "link" }, text);
    button.addEventListener("click", act);
    return button;
  }

  function aboutNode(index) {
    const node = nodes[index];
    const pairs = [];
    if (node.op !== "input") pairs.push(["op", node.op]);
    pairs.push(["shape", node.kept ? `${shape(node.shape)} → ${shape(node.kept)}` : shape(node.shape)]);
    for (const layer of byNode.get(index) || []) {
      const own = layer.layer === node.layer ? "" : `${layer.layer}: `;
      if (layer.out) pairs.push([own + (layer.along ? "channels" : "makes"), `${layer.out[0]} → ${layer.out[1]}`]);
      if (layer.in) pairs.push([`${own}takes`, `${layer.in[0]} → ${layer.in[1]}`]);
      pairs.push([`${own}parameters`, layer.params.map(number).join(" → ")]);
    }
    const parts = [made("h3", {}, title(node)), facts(pairs)];
    const carried = node.groups || [];
    if (carried.length > 1) {
      const list = made("ul", {});
      for (const g of carried) list.append(made("li", {}, link(`${groups[g].name}: ${channels(groups[g])}`, () => pick(g))));
      parts.push(made("div", { className: "muted" }, `carries ${carried.length} groups`), list);
    }
    return parts;
  }

  function places(what, numbers) {
    if (!numbers.length) return [];
    const list = made("ul", {});
    for (const n of numbers) list.append(made("li", {}, link(title(nodes[n]), () => go(n))));
    return [made("div", { className: "muted" }, `${what} ${numbers.length}`), list];
  }

  function aboutGroup(index) {
    const g = groups[index];
    const pairs = [["channels", `${g.size} → ${g.kept}`], ["kind", g.kind || "–"]];
    if (g.why) pairs.push(["stays", g.why]);
    else if (g.kept === g.size) pairs.push(["stays", "nothing of it was chosen to go"]);
    else if (!g.exact) pairs.push(["exact", "no: what stays changes"]);
    return [
      made("h3", {}, `Group ${g.name}`), facts(pairs),
      ...places("made by", g.makes), ...places("carried by", g.along), ...places("taken in by", g.takes),
    ];
  }

  // What stands in the panel: the row that is looked at, and the group selected or else its own.
  function show(index) {
    const own = index === null ? null : (nodes[index].groups || [null])[0];
    const shown = group === null ? own : group;
    const parts = index === null ? [] : aboutNode(index);
    if (shown !== null && shown !== undefined) parts.push(...aboutGroup(shown));
    detail.replaceChildren(...(parts.length ? parts : [made("p", { className: "muted" }, "Nothing is selected.")]));
  }

  function pick(index) {
    group = index;
    const g = groups[index];
    const takes = new Set(g.takes);
    box.classList.add("picked");
    const member = nodes.map((node) => (node.groups || []).includes(index));
    rows.forEach((row, n) => {
      row.classList.toggle("in", member[n]);
      row.classList.toggle("to", takes.has(n));
      row.setAttribute("aria-selected", String(member[n]));
    });
    for (const edge of edges) edge.classList.toggle("on", member[Number(edge.dataset.s)]);
    show(at);
    said.textContent = `Group ${g.name}: ${channels(g)}, in ${member.filter(Boolean).length} rows`;
  }

  function clear() {
    if (group === null) return;
    group = null;
    box.classList.remove("picked");
    for (const row of rows) {
      row.classList.remove("in", "to");
      row.setAttribute("aria-selected", "false");
    }
    show(at);
    said.textContent = "No group is selected";
  }

  // Moves Tab's stop, and the focus with it, to a row.
  function go(index, focus = true) {
    rows[at].tabIndex = -1;
    at = Math.max(0, Math.min(rows.length - 1, index));
    rows[at].tabIndex = 0;
    if (focus) rows[at].focus({ preventScroll: true });
    const head = box.querySelector("thead").offsetHeight;
    const top = rows[at].offsetTop - head;
    const bottom = rows[at].offsetTop + rows[at].offsetHeight;
    if (top < box.scrollTop || bottom > box.scrollTop + box.clientHeight) {
      box.scrollTop = top - (focus ? 0 : box.clientHeight / 3);
    }
    show(at);
  }

  function act(index) {
    const own = nodes[index].groups || [];
    if (!own.length) { clear(); return; }
    const next = own[(own.indexOf(group) + 1) % own.length]; // again: the next group that it carries
    if (next === group) clear(); else pick(next);
  }

  const rowOf = (event) => {
    const row = event.target.closest("tbody tr");
    return row ? Number(row.dataset.n) : null;
  };
  box.addEventListener("click", (event) => {
    const index = rowOf(event);
    if (index === null) return;
    go(index);
    act(index);
  });
  box.addEventListener("mouseover", (event) => {
    const index = rowOf(event);
    if (index !== null) show(index);
  });
  box.addEventListener("mouseleave", () => show(group === null && document.activeElement !== rows[at] ? null : at));
  box.addEventListener("focusin", (event) => {
    const index = rowOf(event);
    if (index !== null && index !== at) go(index);
    else if (index !== null) show(at);
  });

  const page = () => Math.max(1, Math.floor(box.clientHeight / rows[0].offsetHeight) - 2);
  const moves = {
    ArrowDown: () => at + 1, ArrowUp: () => at - 1, PageDown: () => at + page(), PageUp: () => at - page(),
    Home: () => 0, End: () => rows.length - 1,
  };
  box.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in moves) go(moves[event.key]());
    else if (event.key === "Enter" || event.key === " ") act(at);
    else if (event.key === "Escape") clear();
    else return;
    event.preventDefault();
  });
  detail.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { clear(); go(at); }
  });

  function search() {
    const text = find.value.trim().toLowerCase();
    hits = [];
    nodes.forEach((node, n) => {
      const hit = text !== "" && title(node).toLowerCase().includes(text);
      rows[n].classList.toggle("hit", hit);
      if (hit) hits.push(n);
    });
    if (hits.length) go(hits[0], false);
    tell();
  }

  function tell() {
    const place = hits.indexOf(at) + 1;
    if (!find.value.trim()) found.textContent = "";
    else if (!hits.length) found.textContent = "no layer has this in its path";
    else found.textContent = `${place || 1} of ${hits.length}; Enter goes on`;
  }

  find.addEventListener("input", search);
  find.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { find.value = ""; search(); event.preventDefault(); return; }
    if (event.key === "ArrowDown") { go(at); event.preventDefault(); return; }
    if (event.key !== "Enter" || !hits.length) return;
    event.preventDefault();
    const step = event.shiftKey ? -1 : 1;
    const now = hits.indexOf(at);
    go(hits[(now + step + hits.length) % hits.length], false);
    tell();
  });
})();
