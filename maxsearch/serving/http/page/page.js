"use strict";
const PAGE = 24;
const SHOWN_FACETS = 6;
const byId = (id) => document.getElementById(id);
const state = { image: null, like: null, chosen: new Map(), facets: [], cursor: null, asked: 0, last: null };

// Dark to bright also in grey, so that a map can be read without seeing colours: the ends and middle of "cividis".
const STOPS = [[0, 34, 78], [63, 81, 108], [124, 123, 120], [187, 173, 106], [254, 232, 56]];

const KINDS = [
  ["What of the picture counts, by word:", (map) => map.kind === "occlusion"],
  ["Where the aligner sees your words:", (map) => map.kind === "aligner" && map.asked],
  ["What else the aligner sees:", (map) => map.kind === "aligner" && !map.asked],
];

function element(name, fields = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(fields)) {
    if (key in made) made[key] = value; else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function say(message, failed = false) {
  byId("status").textContent = message;
  byId("status").classList.toggle("error", failed);
}

async function call(path, body) {
  const headers = {};
  const key = sessionStorage.getItem("key");
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body) headers["Content-Type"] = "application/json";
  const response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
  if (response.status === 401) byId("key").hidden = false;
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error?.message ?? `the service answered ${response.status}`);
  return answer;
}

function filterOf() {
  const parts = [];
  for (const [field, values] of state.chosen) {
    if (values.size) parts.push({ in: { field, values: [...values] } });
  }
  return parts.length ? { and: parts } : null;
}

function request() {
  const body = { k: PAGE, facets: state.facets };
  const filter = filterOf();
  if (filter) body.filter = filter;
  const query = byId("query").value.trim();
  if (state.like) return { ...body, product_id: state.like.product_id };
  if (!query && !state.image) return null;
  if (query) body.query = query;
  if (state.image) {
    body.image = state.image;
    const share = query ? Number(byId("balance").value) / 100 : 1;
    body.image_weight = share;
    body.text_weight = 1 - share;
  }
  return body;
}

async function search(cursor = null) {
  const body = request();
  if (!body) return;
  const asked = ++state.asked;
  say("Searching…");
  const started = performance.now();
  try {
    const answer = await call("/v1/search", cursor ? { ...body, cursor } : body);
    if (asked !== state.asked) return; // an answer to an earlier question has been overtaken
    const took = performance.now() - started;
    state.last = body;
    state.cursor = answer.cursor;
    if (!cursor) byId("results").replaceChildren();
    byId("results").append(...answer.hits.map(card));
    byId("more").hidden = !answer.cursor;
    if (!cursor) drawFacets(answer.facets);
    const total = answer.total === null ? "" : `${answer.total.toLocaleString()} products, `;
    const nothing = byId("results").childElementCount ? "" : "Nothing found: take a filter away or use other words. ";
    say(`${nothing}${total}${answer.exact ? "exact" : "approximate"}, ${answer.milliseconds.total.toFixed(1)} ms (${took.toFixed(0)} ms here)`);
    byId("generation").textContent = `generation ${answer.generation}, model ${answer.model.slice(0, 12)}`;
  } catch (error) {
    if (asked === state.asked) say(error.message, true);
  }
}

function card(hit) {
  const shot = element("div", { className: "shot" });
  if (hit.picture) shot.append(element("img", { alt: "", loading: "lazy", src: pictureOf(hit.product_id) }));
  else shot.append("no picture");
  if (hit.picture && sessionStorage.getItem("key")) loadWithKey(shot.firstChild, hit.product_id);
  const facts = [`${hit.rank}. score ${hit.score.toFixed(3)}`];
  if (hit.variants) facts.push(`${hit.variants} more variants`);
  const title = hit.title || `product ${hit.product_id}`;
  const why = element("button", { type: "button", ariaLabel: `Why ${title}` }, "Why?");
  why.addEventListener("click", () => explain(hit));
  const like = element("button", { type: "button", ariaLabel: `More like ${title}` }, "More like this");
  like.addEventListener("click", () => startLike(hit));
  const made = element("li", { className: "card", tabIndex: 0 }, shot, element("h3", { title }, title),
    element("p", { className: "facts" }, facts.join(", ")), element("div", { className: "actions" }, why, like));
  made.addEventListener("keydown", (event) => {
    if (event.target !== made || event.key !== "Enter") return;
    event.preventDefault(); // else the same key would press the button that the dialog puts in focus
    explain(hit);
  });
  return made;
}

const pictureOf = (id) => `/v1/picture?product_id=${encodeURIComponent(id)}`;

async function loadWithKey(image, id) {
  // An <img> cannot show a key, so that the picture is fetched and shown from memory.
  image.removeAttribute("src");
  const response = await fetch(pictureOf(id), { headers: { Authorization: `Bearer ${sessionStorage.getItem("key")}` } });
  if (response.ok) image.src = URL.createObjectURL(await response.blob());
}

function drawFacets(facets) {
  const drawn = [];
  for (const [field, counts] of Object.entries(facets)) {
    const chosen = state.chosen.get(field) ?? new Set();
    const values = counts.map((one) => one.value);
    const all = [...counts, ...[...chosen].filter((value) => !values.includes(value)).map((value) => ({ value, count: 0 }))];
    if (!all.length) continue;
    const chips = all.map(({ value, count }) => {
      const chip = element("button", { type: "button", className: "chip" }, String(value),
        element("span", { className: "count" }, count.toLocaleString()));
      chip.setAttribute("aria-pressed", chosen.has(value));
      chip.addEventListener("click", () => choose(field, value));
      return chip;
    });
    drawn.push(element("fieldset", {}, element("legend", {}, field.replaceAll("_", " ")), element("div", { className: "chips" }, ...chips)));
  }
  byId("facets").replaceChildren(...drawn);
  byId("layout").classList.toggle("faceted", drawn.length > 0);
}

function choose(field, value) {
  const values = state.chosen.get(field) ?? new Set();
  if (!values.delete(value)) values.add(value);
  state.chosen.set(field, values);
  search();
}

function startLike(hit) {
  state.like = hit;
  byId("likeTitle").textContent = hit.title || hit.product_id;
  byId("like").hidden = false;
  search();
}

function stopLike() {
  state.like = null;
  byId("like").hidden = true;
}

async function explain(hit) {
  byId("whyTitle").textContent = hit.title || `product ${hit.product_id}`;
  byId("whyBody").replaceChildren(legs(hit));
  byId("why").showModal();
  const query = state.last?.query;
  if (!query) return;
  try {
    const { explanation } = await call("/v1/explain", { query, product_id: hit.product_id });
    if (byId("why").open) byId("whyBody").replaceChildren(seen(hit, explanation), told(hit, explanation));
  } catch (error) {
    byId("whyBody").append(element("p", {}, error.message));
  }
}

function bars(title, values) {
  const largest = Math.max(...values.map(([, value]) => Math.abs(value)), 1e-9);
  const lines = values.flatMap(([name, value]) => [element("span", {}, name),
    element("meter", { min: 0, max: largest, value: Math.abs(value), title: value.toFixed(3) }),
    element("span", {}, value.toFixed(3))]);
  return element("section", {}, element("h3", {}, title), element("div", { className: "bars" }, ...lines));
}

const legs = (hit) => bars("Score by part of the search", Object.entries(hit.legs));

function told(hit, explanation) {
  const parts = explanation.contributions;
  const words = explanation.words.filter((word) => word.effect !== null).map((word) => [word.word, word.effect]);
  const facts = Object.entries(hit.attributes).filter(([, value]) => value).map(([name, value]) => `${name}: ${value}`);
  return element("div", {}, legs(hit),
    bars("What title and picture add", [["title", parts.title], ["picture", parts.image], ["neither", parts.neither]]),
    bars("How much they weigh in the product", [["title", parts.weights[0]], ["picture", parts.weights[1]]]),
    ...(words.length ? [bars("What each word adds", words)] : []),
    element("p", { className: "soft" }, facts.join(" · ")));
}

function seen(hit, explanation) {
  if (!explanation.maps.length) return element("p", { className: "soft" }, "This product has no picture.");
  const canvas = element("canvas", {});
  const image = element("img", { alt: explanation.title || "The product's picture", src: pictureOf(hit.product_id) });
  if (sessionStorage.getItem("key")) loadWithKey(image, hit.product_id);
  const chips = explanation.maps.map((map, place) => {
    const chip = element("button", { type: "button", className: "chip" }, map.word);
    chip.addEventListener("click", () => {
      for (const other of chips) other.setAttribute("aria-pressed", other === chip);
      drawMap(canvas, map);
    });
    chip.setAttribute("aria-pressed", place === 0);
    return chip;
  });
  drawMap(canvas, explanation.maps[0]);
  const scale = element("canvas", { width: 64, height: 1 });
  const pen = scale.getContext("2d");
  for (let x = 0; x < 64; x++) {
    pen.fillStyle = colour(x / 63);
    pen.fillRect(x, 0, 1, 1);
  }
  const groups = KINDS.map(([title, belongs]) => {
    const mine = chips.filter((chip, place) => belongs(explanation.maps[place]));
    return mine.length ? [element("p", { className: "soft" }, title), element("div", { className: "chips" }, ...mine)] : [];
  });
  return element("div", {}, element("div", { className: "seen" }, image, canvas),
    element("div", { className: "scale" }, "least", scale, "most"), ...groups.flat());
}

function colour(share) {
  const at = Math.min(Math.max(share, 0), 1) * (STOPS.length - 1);
  const low = Math.min(Math.floor(at), STOPS.length - 2);
  const mixed = STOPS[low].map((value, channel) => Math.round(value + (STOPS[low + 1][channel] - value) * (at - low)));
  return `rgb(${mixed.join(" ")})`;
}

function drawMap(canvas, map) {
  const rows = map.values;
  const flat = rows.flat();
  const [low, high] = [Math.min(...flat), Math.max(...flat)];
  [canvas.width, canvas.height] = [rows[0].length, rows.length];
  const pen = canvas.getContext("2d");
  rows.forEach((row, y) => row.forEach((value, x) => {
    pen.fillStyle = colour(high > low ? (value - low) / (high - low) : 0);
    pen.fillRect(x, y, 1, 1);
  }));
}

function takePicture(file) {
  if (!file || !/^image\/(jpeg|png|webp)$/.test(file.type)) {
    say("Give a JPEG, PNG or WebP.", true);
    return;
  }
  const reader = new FileReader();
  reader.onload = () => {
    state.image = reader.result.slice(reader.result.indexOf(",") + 1);
    byId("preview").src = reader.result;
    byId("pictured").hidden = false;
    stopLike();
    search();
  };
  reader.readAsDataURL(file);
}

function dropPicture() {
  state.image = null;
  byId("file").value = "";
  byId("pictured").hidden = true;
}

function move(step) {
  const cards = [...byId("results").children];
  if (!cards.length) return;
  const at = cards.indexOf(document.activeElement.closest?.(".card"));
  cards[at < 0 ? 0 : Math.min(Math.max(at + step, 0), cards.length - 1)].focus();
}

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  stopLike();
  state.chosen.clear();
  search();
});
byId("more").addEventListener("click", () => search(state.cursor));
byId("unlike").addEventListener("click", () => { stopLike(); search(); });
byId("unpicture").addEventListener("click", () => { dropPicture(); search(); });
byId("balance").addEventListener("change", () => search());
byId("file").addEventListener("change", (event) => takePicture(event.target.files[0]));
byId("close").addEventListener("click", () => byId("why").close());
byId("keySave").addEventListener("click", () => {
  sessionStorage.setItem("key", byId("keyValue").value);
  byId("key").hidden = true;
  begin();
  search();
});
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
  if (file) takePicture(file);
});
document.addEventListener("dragover", (event) => { event.preventDefault(); byId("drop").classList.add("over"); });
document.addEventListener("dragleave", () => byId("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  byId("drop").classList.remove("over");
  takePicture(event.dataTransfer.files[0]);
});
document.addEventListener("keydown", (event) => {
  if (byId("why").open || event.target.matches("input")) return;
  if (event.key === "/") { event.preventDefault(); byId("query").focus(); byId("query").select(); }
  if (event.key === "ArrowRight") { event.preventDefault(); move(1); }
  if (event.key === "ArrowLeft") { event.preventDefault(); move(-1); }
});

async function begin() {
  try {
    const { fields } = await call("/v1/fields");
    state.facets = fields.filter((field) => field.facet).slice(0, SHOWN_FACETS).map((field) => field.name);
  } catch (error) {
    say(error.message, true);
  }
}

begin().then(() => {
  const asked = new URLSearchParams(location.search).get("q");
  if (asked) { byId("query").value = asked; search(); }
});
