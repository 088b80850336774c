"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const STEPS = 10000;  // a step of the discard share is 0.01 %
const WINDOW = 8;     // faces that the slider shows at once
const [WIDTH, HEIGHT] = [1000, 200];

function element(name, text, parent) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

function drawn(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  byId("histogram").append(made);
  return made;
}

function decoded(text, Type) {
  return new Type(Uint8Array.from(atob(text), (character) => character.charCodeAt(0)).buffer);
}

// The fewest digits that mean the same float32, as the CSV has them.
function shortest(value) {
  for (let digits = 1; digits < 9; digits++) {
    const text = value.toPrecision(digits);
    if (Math.fround(Number(text)) === value) return String(Number(text));
  }
  return String(Number(value.toPrecision(9)));
}

const grouped = (count) => count.toLocaleString("en-US");
const percent = (part, whole) => `${(100 * part / whole).toFixed(2)} %`;

function table(id, head, rows) {
  const place = byId(id);
  const line = element("tr", undefined, place);
  for (const cell of head) element("th", cell, line);
  for (const row of rows) {
    const next = element("tr", undefined, place);
    for (const cell of row) element("td", cell, next);
  }
}

function face(number) {
  const one = data.faces[number];
  const figure = element("figure");
  const image = element("img", undefined, figure);
  image.alt = one.name;
  image.title = one.name;
  if (one.jpeg) image.src = `data:image/jpeg;base64,${one.jpeg}`;
  const caption = element("figcaption", undefined, figure);
  element("b", one.quality.toPrecision(4), caption);
  element("span", ` ${one.percentile.toFixed(1)} %`, caption);
  const name = element("div", undefined, caption);
  element("bdi", one.name, name);
  name.title = one.name;
  return figure;
}

// ---- distribution

const { low, high, counts } = data.histogram;
const across = (value) => (high > low ? WIDTH * (value - low) / (high - low) : WIDTH / 2);

function vertical(value, id) {
  const x = across(value);
  return drawn("line", { x1: x, x2: x, y1: 0, y2: HEIGHT, "vector-effect": "non-scaling-stroke", ...(id && { id }) });
}

function drawHistogram() {
  const tallest = Math.max(...counts);
  const width = WIDTH / counts.length;
  counts.forEach((count, bin) => {
    const height = HEIGHT * count / tallest;
    const bar = drawn("rect", { x: bin * width, y: HEIGHT - height, width: Math.max(width - 1, 0.5), height });
    const from = low + (high - low) * bin / counts.length;
    bar.append(document.createElementNS("http://www.w3.org/2000/svg", "title"));
    bar.firstChild.textContent = `${grouped(count)} ${data.kind} from ${from.toPrecision(4)}`;
  });
  for (const [share, value] of data.percentiles) {
    if (share > 0 && share < 100) vertical(value);
    element("span", share % 100 ? `${share}` : value.toPrecision(3), byId("axis")).style.left = `${100 * across(value) / WIDTH}%`;
  }
  table("percentiles", data.percentiles.map(([share]) => `${share} %`), [data.percentiles.map(([, value]) => value)]);
}

// ---- threshold

const thresholds = decoded(data.thresholds, Float32Array);
const below = decoded(data.below, Uint32Array);

function showThreshold() {
  const wanted = Math.floor(Number(byId("share").value) * STEPS / 100 + 1e-6);
  const known = byId("share").value !== "" && wanted >= 0 && wanted < STEPS;
  byId("threshold").textContent = known ? shortest(thresholds[wanted]) : "?";
  byId("discarded").textContent = known
    ? `Discards ${grouped(below[wanted])} of ${grouped(data.count)} ${data.kind} (${percent(below[wanted], data.count)}).`
    : "Give a share from 0 to 99.99 %.";
  if (!known) return;
  const x = across(thresholds[wanted]);
  cut.setAttribute("x1", x);
  cut.setAttribute("x2", x);
}

// ---- faces

function showFaces() {
  const place = Number(byId("slider").value);
  const first = Math.max(0, Math.min(place - WINDOW / 2, data.strip.length - WINDOW));
  byId("strip").replaceChildren(...data.strip.slice(first, first + WINDOW).map(face));
  byId("strip").children[place - first].className = "centre";
  const one = data.faces[data.strip[place]];
  byId("place").textContent = `Quality ${one.quality}, percentile ${one.percentile.toFixed(2)}`;
  here.setAttribute("x1", across(one.quality));
  here.setAttribute("x2", across(one.quality));
}

drawHistogram();
const cut = vertical(low, "cut");
const here = vertical(low, "here");
byId("summary").textContent = data.summary;
byId("share").addEventListener("input", showThreshold);
byId("slider").max = data.strip.length - 1;
byId("slider").value = Math.floor(data.strip.length / 2);
byId("slider").addEventListener("input", showFaces);
byId("lowest").append(...data.lowest.map(face));
byId("highest").append(...data.highest.map(face));
table("failures", ["images", "reason", "first"], data.failures.map((one) => [grouped(one.count), one.reason, one.first]));
if (!data.failures.length) byId("failures").replaceChildren(element("caption", "none"));
table("facts", ["key", "value"], data.facts);
showThreshold();
showFaces();
