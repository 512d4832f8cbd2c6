"use strict";
(() => {
  // What a run gave is text from file names and labels: it only ever becomes text nodes and attributes, never markup.
  const SVG = "http://www.w3.org/2000/svg";
  const AT_ONCE = 12;
  const SHAPES = [
    "M0-9a9 9 0 1 0 .01 0z", "M-8-8h16v16h-16z", "M0-10l10 17h-20z", "M0-11l9 11-9 11-9-11z",
    "M-3-10h6v7h7v6h-7v7h-6v-7h-7v-6h7z", "M0 10l-10-17h20z",
  ];
  const COLOURS = 7;
  const MANY_CLASSES = 30;
  const data = JSON.parse(document.getElementById("data").textContent);
  const { classes, videos } = data;
  const blank = new Map(); // the parts that are of one run, as they are before they are filled
  let pictures = null;
  let view = null; // the run that is shown
  let gallery = null;

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  function draw(tag, attributes = {}) {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  }

  const nameOf = (video) => videos[video][0];
  const classOf = (video) => videos[video][1];
  const labelOf = (video) => (classOf(video) < 0 ? "no label" : classes[classOf(video)]);
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  const width = (share) => `${(100 * share).toFixed(1)}%`;

  function pictureOf(video, alt) {
    const kind = "data:image/webp;base64,";
    return make("img", { class: "picture", alt, decoding: "async", draggable: "false", src: kind + pictures[video] });
  }

  /** Call `build` when an element is about to be seen, once. */
  function whenNear(element, build) {
    const observer = new IntersectionObserver((entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      observer.disconnect();
      build();
    }, { rootMargin: "600px" });
    observer.observe(element);
  }

  function reveal(id) {
    const section = document.getElementById(id);
    section.hidden = false;
    document.querySelector(`nav a[href="#${id}"]`).hidden = false;
    return section;
  }

  /** Buttons of which one is pressed; `chosen` is called with its pathway. */
  function choice(group, chosen) {
    const { pathways } = view;
    const last = pathways[pathways.length - 1];
    for (const pathway of pathways) {
      const button = make("button", { type: "button", "aria-pressed": String(pathway === last) }, pathway);
      button.addEventListener("click", () => {
        for (const other of group.children) other.setAttribute("aria-pressed", String(other === button));
        chosen(pathway);
      });
      group.append(button);
    }
    group.hidden = pathways.length < 2;
    chosen(last);
  }

  // Classes

  function showClasses(section, { title, columns, rows: shares }) {
    if (data.recall.length > 1) section.append(make("h3", {}, title));
    const table = make("table", { class: "classes" });
    const body = make("tbody");
    const headings = [["class", ""], ["test clips", ""], ...columns];
    const rows = shares.map(([name, count, ...found]) => {
      const cells = found.map((share, column) => {
        const bar = make("span", { class: `bar ${columns[column][1]}` }, make("i"), make("b", {}, share === null ? "–" : percent(share)));
        bar.firstChild.style.setProperty("--share", width(share || 0));
        return make("td", { class: "number" }, bar);
      });
      const keys = [name, count, ...found.map((share) => (share === null ? -1 : share))];
      const row = make("tr", {}, make("th", { scope: "row" }, name), make("td", { class: "number" }, String(count)), ...cells);
      return { keys, row };
    });
    const sort = (column, descending) => {
      const sign = descending ? -1 : 1;
      rows.sort((one, other) => {
        const [a, b] = [one.keys[column], other.keys[column]];
        return sign * (typeof a === "string" ? a.localeCompare(b, "en") : a - b);
      });
      body.append(...rows.map((each) => each.row));
    };
    const heads = headings.map(([heading], column) => {
      const button = make("button", { type: "button" }, heading);
      const head = make("th", { scope: "col", ...(column ? { class: "number" } : {}) }, button);
      button.addEventListener("click", () => {
        const descending = head.getAttribute("aria-sort") ? head.getAttribute("aria-sort") === "ascending" : column > 0;
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", descending ? "descending" : "ascending");
        sort(column, descending);
      });
      return head;
    });
    table.append(make("caption", {}, title), make("thead", {}, make("tr", {}, ...heads)), body);
    section.append(make("div", { class: "box tall", tabindex: "0", role: "region", "aria-label": title }, table));
    heads[heads.length - 1].querySelector("button").click();
  }

  // Confusion

  function showConfusion(section) {
    const [table, readout, mixed] = ["table", ".readout", ".mixed"].map((selector) => section.querySelector(selector));
    const counts = new Map();
    for (const [query, , count] of view.confusion[view.pathways[0]]) counts.set(query, (counts.get(query) || 0) + count);
    table.classList.toggle("many", classes.length > MANY_CLASSES);
    const read = (cell) => { readout.textContent = cell.dataset.words || ""; };
    table.addEventListener("pointerover", (event) => { if (event.target.matches("tbody td")) read(event.target); });

    const box = table.parentElement;
    let current = [0, 0];
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    box.addEventListener("keydown", (event) => {
      if (!moves[event.key]) return;
      event.preventDefault();
      const body = table.tBodies[0];
      const [down, across] = moves[event.key];
      current = [current[0] + down, current[1] + across];
      current[0] = Math.min(Math.max(current[0], 0), body.rows.length - 1);
      current[1] = Math.min(Math.max(current[1], 0), classes.length - 1);
      const cell = body.rows[current[0]].cells[current[1] + 1];
      for (const other of table.querySelectorAll(".current")) other.classList.remove("current");
      cell.classList.add("current");
      cell.scrollIntoView({ block: "nearest", inline: "nearest" });
      read(cell);
    });

    choice(section.querySelector(".choice"), (pathway) => {
      const found = new Map(view.confusion[pathway].map(([query, near, count]) => [`${query} ${near}`, count]));
      const head = make("tr", {}, make("td", {}), ...classes.map((name) => make("th", { scope: "col", title: name }, make("span", {}, name))));
      const body = make("tbody");
      for (const [query, total] of counts) {
        const row = make("tr", {}, make("th", { scope: "row", title: classes[query] }, classes[query]));
        for (let near = 0; near < classes.length; near += 1) {
          const count = found.get(`${query} ${near}`) || 0;
          const cell = make("td", {});
          cell.dataset.words = `${pathway}: of ${total} clips of ${classes[query]}, ${count} have a nearest neighbour of ${classes[near]}`;
          if (query === near) cell.classList.add("own");
          if (count) {
            cell.classList.add("some");
            cell.classList.toggle("strong", count / total > 0.6);
            cell.style.setProperty("--share", (count / total).toFixed(3));
            cell.append(String(Math.round(100 * count / total)));
          }
          row.append(cell);
        }
        body.append(row);
      }
      table.replaceChildren(make("caption", {}, `Confusion of neighbours, ${pathway}`), make("thead", {}, head), body);
      const worst = view.confusion[pathway].filter(([query, near]) => query !== near);
      worst.sort((one, other) => other[2] - one[2] || one[0] - other[0] || one[1] - other[1]);
      mixed.replaceChildren(...worst.slice(0, 10).map(([query, near, count]) => {
        const words = `${classes[query]} taken for ${classes[near]}: ${count} of ${counts.get(query)}`;
        const button = make("button", { type: "button" }, words);
        button.addEventListener("click", () => gallery.show({ class: String(query) }));
        return make("li", {}, button);
      }));
      readout.textContent = "";
    });
  }

  // Map

  function showMap(section) {
    const [svg, card, legend, told] = ["svg", ".card", ".legend", "[aria-live]"].map((selector) => section.querySelector(selector));
    const queries = new Set(data.queries);
    const wanted = new Set();
    const ring = draw("circle", { class: "ring", r: 18, visibility: "hidden" });
    const points = data.mapped.map((video) => {
      const number = Math.max(classOf(video), 0);
      const path = draw("path", { d: SHAPES[number % SHAPES.length], class: `point k${number % COLOURS}` });
      if (queries.has(video) && data.scored) path.classList.add("asks");
      return { video, path, x: 0, y: 0 };
    });
    svg.append(...points.map((point) => point.path), ring);
    let current = null;

    const shown = (point) => !wanted.size || wanted.has(classOf(point.video));
    const describe = (point) => `${labelOf(point.video)}, ${nameOf(point.video)}`;

    function select(point, say) {
      current = point;
      ring.setAttribute("visibility", point ? "visible" : "hidden");
      card.hidden = !point;
      if (!point) return;
      ring.setAttribute("cx", point.x);
      ring.setAttribute("cy", point.y);
      const part = data.scored ? (queries.has(point.video) ? "test clip" : "training clip") : "clip";
      card.replaceChildren(
        pictureOf(point.video, `frames of ${nameOf(point.video)}`),
        make("strong", {}, labelOf(point.video)), `${nameOf(point.video)} (${part})`,
      );
      const box = svg.getBoundingClientRect();
      const [x, y] = [(point.x + 25) / 1050 * box.width, (point.y + 25) / 1050 * box.height];
      card.style.left = `${Math.min(Math.max(x - 88, 0), Math.max(box.width - 176, 0))}px`;
      card.style.top = y > box.height / 2 ? "" : `${y + 16}px`;
      card.style.bottom = y > box.height / 2 ? `${box.height - y + 16}px` : "";
      if (say) told.textContent = `${describe(point)}, ${part}`;
    }

    function nearestTo(event) {
      const box = svg.getBoundingClientRect();
      const scale = 1050 / box.width;
      const [x, y] = [(event.clientX - box.left) * scale - 25, (event.clientY - box.top) * scale - 25];
      let best = null;
      let least = 24 * scale;
      for (const point of points) {
        const distance = Math.hypot(point.x - x, point.y - y);
        if (distance < least && shown(point)) [best, least] = [point, distance];
      }
      return best;
    }

    function beside(from, [across, down]) {
      let best = null;
      let least = Infinity;
      for (const point of points) {
        const along = (point.x - from.x) * across + (point.y - from.y) * down;
        const aside = Math.abs((point.x - from.x) * down + (point.y - from.y) * across);
        if (point === from || along <= 0 || aside > 1.5 * along || !shown(point)) continue;
        if (along + 2 * aside < least) [best, least] = [point, along + 2 * aside];
      }
      return best || from;
    }

    const open = (point) => gallery.show({ name: nameOf(point.video) });
    svg.addEventListener("pointermove", (event) => { if (event.pointerType !== "touch") select(nearestTo(event), false); });
    svg.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") select(null, false); });
    svg.addEventListener("click", (event) => {
      const point = nearestTo(event);
      if (point && event.pointerType !== "touch" && queries.has(point.video)) open(point);
      else select(point, true);
    });
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    svg.addEventListener("keydown", (event) => {
      if (event.key === "Escape") select(null, false);
      if (event.key === "Enter" && current && queries.has(current.video)) open(current);
      if (!ways[event.key]) return;
      event.preventDefault();
      const from = current || points.find(shown);
      if (from) select(current ? beside(from, ways[event.key]) : from, true);
    });
    svg.addEventListener("blur", () => select(null, false));

    choice(section.querySelector(".choice"), (pathway) => {
      const places = view.places[pathway];
      points.forEach((point, index) => {
        [point.x, point.y] = [places[2 * index], places[2 * index + 1]];
        point.path.setAttribute("transform", `translate(${point.x} ${point.y})`);
      });
      select(null, false);
    });

    const used = new Set(points.map((point) => classOf(point.video)));
    classes.forEach((name, number) => {
      if (!used.has(number)) return;
      const swatch = draw("svg", { viewBox: "-13 -13 26 26", "aria-hidden": "true" });
      swatch.append(draw("path", { d: SHAPES[number % SHAPES.length], class: `k${number % COLOURS}` }));
      const button = make("button", { type: "button", "aria-pressed": "false" }, swatch, name);
      button.addEventListener("click", () => {
        if (!wanted.delete(number)) wanted.add(number);
        button.setAttribute("aria-pressed", String(wanted.has(number)));
        for (const point of points) point.path.classList.toggle("away", !shown(point));
        select(null, false);
      });
      legend.append(make("li", {}, button));
    });
    legend.hidden = !legend.children.length;
    section.querySelector(".text").textContent = data.map_words;
  }

  // Gallery

  const known = (query, near) => classOf(query) >= 0 && classOf(near) >= 0;

  /** Whether the nearest clip is of the query's class. */
  function right(index, pathway) {
    const query = data.queries[index];
    const [near] = view.near[pathway][index];
    return near !== undefined && known(query, near) && classOf(query) === classOf(near);
  }

  function verdicts() {
    const all = [["all", "any", () => true]];
    if (!data.marked) return all;
    if (view.pathways.includes("slow") && view.pathways.includes("fast")) {
      all.push(["fast", "fast right, slow wrong", (index) => right(index, "fast") && !right(index, "slow")]);
      all.push(["slow", "slow right, fast wrong", (index) => right(index, "slow") && !right(index, "fast")]);
      all.push(["neither", "both wrong", (index) => !right(index, "slow") && !right(index, "fast")]);
      all.push(["each", "both right", (index) => right(index, "slow") && right(index, "fast")]);
    }
    return all;
  }

  function neighbour(query, near, similarity) {
    const marked = data.marked && known(query, near);
    const hit = marked && classOf(query) === classOf(near);
    const item = make("li", { class: marked ? (hit ? "hit" : "miss") : "", title: nameOf(near) });
    const line = make("span", {});
    if (marked) {
      line.append(make("b", { "aria-hidden": "true" }, hit ? "✓" : "✗"), make("span", { class: "unseen" }, hit ? "hit" : "miss"));
    }
    line.append((similarity / 1000).toFixed(2));
    item.append(pictureOf(near, `${labelOf(near)}: frames of ${nameOf(near)}`), line);
    item.append(make("em", {}, data.marked && classOf(near) >= 0 ? labelOf(near) : nameOf(near)));
    return item;
  }

  function queryItem(index) {
    const query = data.queries[index];
    const asked = make("div", { class: "asked" }, pictureOf(query, `query, ${labelOf(query)}: frames of ${nameOf(query)}`));
    const heading = classOf(query) < 0 ? nameOf(query) : labelOf(query);
    asked.append(make("strong", {}, heading));
    if (classOf(query) >= 0) asked.append(make("span", {}, nameOf(query)));
    const near = make("div", { class: "near" });
    for (const pathway of view.pathways) {
      const found = view.near[pathway][index];
      const list = make("ol", { "aria-label": `nearest by ${pathway}` });
      list.style.setProperty("--k", view.k);
      found.forEach((video, rank) => list.append(neighbour(query, video, view.similarity[pathway][index][rank])));
      near.append(make("h3", { class: pathway }, pathway), list);
    }
    return make("article", { class: "query", tabindex: "0", "aria-label": `query ${heading}, ${nameOf(query)}` }, asked, near);
  }

  /** Fill the gallery, filtered as it was for the run that was shown before. */
  function makeGallery(section, before) {
    const [list, more, count, form] = [".queries", ".more", ".count", "form"].map((selector) => section.querySelector(selector));
    const field = form.elements;
    const judged = verdicts();
    let found = [];
    let made = 0;
    let seen = false; // until the gallery is scrolled to, none of it is made

    function add() {
      seen = true;
      list.append(...found.slice(made, made + AT_ONCE).map(queryItem));
      made = Math.min(made + AT_ONCE, found.length);
      more.hidden = made >= found.length;
    }

    const observer = new IntersectionObserver((entries) => {
      if (!entries.some((entry) => entry.isIntersecting) || more.hidden) return;
      add();
      observer.unobserve(more); // so that it is looked at anew: it may still be in sight
      observer.observe(more);
    }, { rootMargin: "800px" });

    function filter() {
      const test = judged.find(([name]) => name === field.verdict.value)[2];
      const wanted = field.class.value;
      const words = field.name.value.trim().toLowerCase();
      found = [];
      data.queries.forEach((query, index) => {
        if (wanted !== "" && classOf(query) !== Number(wanted)) return;
        if (words && !nameOf(query).toLowerCase().includes(words)) return;
        if (test(index)) found.push(index);
      });
      const total = data.queries.length.toLocaleString("en");
      const units = data.units || ["query", "queries"];
      count.textContent = `${found.length.toLocaleString("en")} of ${total} ${units[data.queries.length === 1 ? 0 : 1]}`;
      list.replaceChildren();
      made = 0;
      more.hidden = !found.length;
      if (seen) add();
      observer.unobserve(more);
      observer.observe(more);
    }

    const asked = new Set(data.queries.map(classOf));
    field.class.append(make("option", { value: "" }, "all"), ...classes.flatMap((name, number) => (
      asked.has(number) ? [make("option", { value: String(number) }, name)] : []
    )));
    field.verdict.append(...judged.map(([name, words, test]) => {
      const matching = data.queries.filter((_, index) => test(index)).length;
      return make("option", { value: name }, `${words} (${matching.toLocaleString("en")})`);
    }));
    field.class.parentElement.hidden = !data.marked;
    field.verdict.parentElement.hidden = judged.length < 2;
    field.moving.checked = !matchMedia("(prefers-reduced-motion: reduce)").matches;
    const play = () => document.documentElement.classList.toggle("playing", field.moving.checked);
    field.moving.addEventListener("change", play);
    play();
    form.addEventListener("submit", (event) => event.preventDefault());
    for (const each of [field.class, field.verdict]) each.addEventListener("change", filter);
    field.name.addEventListener("input", filter);
    more.addEventListener("click", add);
    section.querySelector(".text").textContent = data.words;
    document.documentElement.style.setProperty("--frames", data.frames);
    const set = (values) => {
      for (const name of ["class", "verdict", "name"]) field[name].value = values[name] || (name === "verdict" ? "all" : "");
      if (field.verdict.selectedIndex < 0) field.verdict.value = "all";
      filter();
    };
    set(before);
    return {
      values: () => Object.fromEntries(["class", "verdict", "name"].map((name) => [name, field[name].value])),
      show(values) {
        set(values);
        section.scrollIntoView();
        field.name.focus({ preventScroll: true });
      },
    };
  }

  /** A part as it was before it was filled, in the place of what is there now. */
  function emptied(id) {
    const now = document.getElementById(id);
    if (!blank.has(id)) blank.set(id, now.cloneNode(true));
    const section = blank.get(id).cloneNode(true);
    now.replaceWith(section);
    const [select, link] = ["select", "a"].map((name) => section.querySelector(`.of ${name}`));
    select.append(...data.names.map((name, index) => make("option", { value: String(index) }, name)));
    select.value = String(data.names.indexOf(view.name));
    select.addEventListener("change", () => {
      show(Number(select.value));
      const again = document.querySelector(`#${id} .of select`);
      again.focus({ preventScroll: true });
      document.getElementById(id).scrollIntoView({ block: "nearest", behavior: "instant" });
    });
    if (view.report) link.setAttribute("href", view.report);
    else link.remove();
    section.querySelector(".of").hidden = data.names.length < 2 && !view.report;
    return reveal(id);
  }

  /** Fill everything that is of one run. */
  function show(number) {
    const before = gallery ? gallery.values() : {};
    view = JSON.parse(document.querySelectorAll("script.view")[number].textContent);
    gallery = makeGallery(emptied("gallery"), before);
    if (view.confusion) {
      const section = emptied("confusion");
      whenNear(section, () => showConfusion(section));
    }
    if (data.mapped.length) {
      const section = emptied("map");
      whenNear(section, () => showMap(section));
    }
  }

  document.addEventListener("DOMContentLoaded", () => {
    pictures = JSON.parse(document.getElementById("pictures").textContent);
    if (data.recall.length) {
      const section = reveal("classes");
      for (const each of data.recall) showClasses(section, each);
    }
    if (data.names.length) show(0);
  });
})();
