"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const PAGE_ROWS = 50, NORM = "norm";
const CONFIG = {responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"]};
const FONT = {family: "system-ui, sans-serif", size: 13, color: "#222"};
const byId = (id) => document.getElementById(id);

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// A select with these choices ([value, text] or value), keeping the chosen one where it is still there.
function fill(select, choices, wanted = select.value) {
  const pairs = choices.map((choice) => Array.isArray(choice) ? choice : [choice, choice]);
  select.replaceChildren(...pairs.map(([value, text]) => element("option", text, {value})));
  if (pairs.some(([value]) => String(value) === wanted)) select.value = wanted;
  select.disabled = pairs.length < 2;
}

function shown(number) {
  if (number === null || number === undefined) return "";
  const size = Math.abs(number);
  return (size !== 0 && (size < 1e-3 || size >= 1e6) ? number.toExponential(2)
    : String(Number(number.toPrecision(5)))).replaceAll("-", "−");
}
const interval = (row) => row.low === null || row.low === undefined ? "" : `${shown(row.low)} to ${shown(row.high)}`;
const unitOf = (unit) => unit === "1" ? "" : unit;

// ---- the summary, by row
const COLUMNS = Object.keys(DATA.summary);
const ROWS = (() => {
  const columns = COLUMNS.map((name) => {
    const column = DATA.summary[name];
    return Array.isArray(column) ? column : column.codes.map((code) => column.names[code]);
  });
  return columns[0].map((_, i) => Object.fromEntries(COLUMNS.map((name, j) => [name, columns[j][i]])));
})();
const MODELS = DATA.models.map((model) => model.name);
const COLOR = Object.fromEntries(DATA.models.map((model) => [model.name, model.color]));
const distinct = (rows, name) => [...new Set(rows.map((row) => row[name]))];

// ---- curves
// What can be drawn: quantities of a model that have a place in depth and an interval or a value.
const PLACED = ROWS.filter((row) => MODELS.includes(row.model) && row.layer !== "");

function startCurves() {
  for (const {name, color} of DATA.models) {
    const label = element("label"), box = element("input", null, {type: "checkbox", value: name});
    box.checked = true;
    box.addEventListener("change", drawCurve);
    label.append(box, element("span", null, {class: "swatch", style: `background:${color}`}), name);
    byId("models").append(label);
  }
  fill(byId("metric"), distinct(PLACED, "metric"));
  byId("metric").addEventListener("change", chooseMetric);
  byId("variable").addEventListener("change", chooseVariable);
  for (const id of ["feature", "along", "layer"]) byId(id).addEventListener("change", drawCurve);
  chooseMetric();
}

function chooseMetric() {
  const metric = byId("metric").value;
  const there = distinct(PLACED.filter((row) => row.metric === metric), "variable");
  const first = (DATA.headlines[metric] || []).filter((name) => there.includes(name));
  fill(byId("variable"), [...first, ...there.filter((name) => !first.includes(name))], first[0]);
  chooseVariable();
}

const ofVariable = () => PLACED.filter(
  (row) => row.metric === byId("metric").value && row.variable === byId("variable").value);

function chooseVariable() {
  const rows = ofVariable();
  const features = distinct(rows.filter((row) => row.value !== null), "feature");
  const every = features.length ? features : distinct(rows, "feature");
  fill(byId("feature"), every.map((name) => [name, name || "—"]));
  const layers = layersOf(rows);
  const shared = layers.filter((layer) => layer !== NORM && MODELS.every((model) =>
    rows.some((row) => row.model === model && row.layer === layer)));
  fill(byId("layer"), layers, byId("layer").value || shared.at(-1));
  drawCurve();
}

function layersOf(rows) {
  const depth = new Map();
  for (const row of rows) depth.set(row.layer, Math.max(row.depth ?? 0, depth.get(row.layer) ?? 0));
  return [...depth.keys()].sort((a, b) => (a === NORM) - (b === NORM) || depth.get(a) - depth.get(b));
}

function drawCurve() {
  const chosen = [...byId("models").querySelectorAll("input:checked")].map((box) => box.value);
  const along = byId("along").value, feature = byId("feature").value, layer = byId("layer").value;
  const rows = ofVariable().filter((row) => row.feature === feature && chosen.includes(row.model));
  const traces = [], said = [];
  for (const model of chosen) {
    const curve = rows.filter((row) => row.model === model && row.value !== null)
      .sort((a, b) => a.depth - b.depth);
    const stream = curve.filter((row) => row.layer !== NORM);
    if (!curve.length) continue;
    traces.push(...band(stream, model, along), line(stream, model, along),
      ...points(curve.filter((row) => row.layer === NORM), model, along, "circle-open", 9),
      ...points(curve.filter((row) => row.layer === layer), model, along, "diamond", 12));
    const ends = [stream[0] ?? curve[0], stream.at(-1) ?? curve[0]];
    said.push(`${model} from ${shown(ends[0].value)} to ${shown(ends[1].value)}`);
  }
  const variable = byId("variable").value, unit = unitOf(rows[0]?.unit ?? "");
  const label = [variable, feature].filter(Boolean).join(", ") + (unit ? ` (${unit})` : "");
  byId("curve").setAttribute("aria-label", `${label} over ${along.replace("_", " ")}. ${said.join("; ")}.`);
  Plotly.react("curve", traces, {
    font: FONT, margin: {l: 70, r: 20, t: 20, b: 50}, hovermode: "closest", showlegend: true,
    legend: {orientation: "h", y: 1.08},
    xaxis: {title: {text: along === "depth" ? "depth (0 embed, 1 position, i + 2 block i)"
      : "relative depth (1: last block)"}, zeroline: false},
    yaxis: {title: {text: label}, zeroline: false},
  }, CONFIG);
  byId("curve-note").textContent = "Bands: 95 % bootstrap intervals over images. Circles: after the "
    + "final norm. Diamonds: the chosen layer.";
  tellLayer(rows, chosen, layer, label);
}

const hover = (model) => `<b>${model}</b>, %{customdata[0]}<br>%{y:.5g} [%{customdata[1]}]<extra></extra>`;
const besides = (rows) => rows.map((row) => [row.layer, interval(row)]);

function line(rows, model, along) {
  return {x: rows.map((row) => row[along]), y: rows.map((row) => row.value), name: model,
    customdata: besides(rows), mode: "lines+markers", line: {color: COLOR[model]},
    marker: {size: 5}, hovertemplate: hover(model)};
}

function band(rows, model, along) {
  const there = rows.filter((row) => row.low !== null && row.high !== null);
  if (!there.length) return [];
  const back = [...there].reverse();
  return [{x: [...there, ...back].map((row) => row[along]),
    y: [...there.map((row) => row.low), ...back.map((row) => row.high)], fill: "toself",
    fillcolor: `${COLOR[model]}38`, line: {width: 0}, mode: "lines", hoverinfo: "skip", showlegend: false}];
}

function points(rows, model, along, symbol, size) {
  if (!rows.length) return [];
  const ends = rows.filter((row) => row.low !== null && row.high !== null).length === rows.length;
  return [{x: rows.map((row) => row[along]), y: rows.map((row) => row.value), mode: "markers",
    customdata: besides(rows), showlegend: false, hovertemplate: hover(model),
    marker: {color: COLOR[model], symbol, size},
    error_y: ends ? {type: "data", symmetric: false, color: COLOR[model], thickness: 1.2,
      array: rows.map((row) => row.high - row.value),
      arrayminus: rows.map((row) => row.value - row.low)} : undefined}];
}

function tellLayer(rows, chosen, layer, label) {
  byId("curve-said").textContent = `${label} at layer ${layer}`;
  byId("curve-values").replaceChildren(...chosen.flatMap((model) => {
    const found = rows.filter((row) => row.model === model && row.layer === layer);
    const told = found.length ? found : [{model, layer, note: "this model has no such layer"}];
    return told.map((row) => cells([row.model, row.layer, shown(row.value), interval(row),
      unitOf(row.unit ?? ""), row.note ?? ""], [2, 3]));
  }));
}

function cells(texts, numeric = []) {
  const row = element("tr");
  row.append(...texts.map((text, i) => i === 0 ? element("th", text, {scope: "row"})
    : element("td", text, numeric.includes(i) ? {class: "number"} : {})));
  return row;
}

// ---- images
function unpacked(array) {
  if (array.values) return array.values;
  const bytes = Uint8Array.from(atob(array.data), (letter) => letter.charCodeAt(0));
  array.values = array.type === "uint8" ? bytes : new Float32Array(bytes.buffer);
  return array.values;
}

function startImages() {
  fill(byId("image-model"), MODELS.filter((name) => DATA.galleries[name]));
  byId("image-model").addEventListener("change", chooseImageModel);
  for (const id of ["image", "image-layer", "head", "query"]) byId(id).addEventListener("change", drawImage);
  byId("previous-image").addEventListener("click", () => step(-1));
  byId("next-image").addEventListener("click", () => step(1));
  chooseImageModel();
}

function step(by) {
  const select = byId("image");
  select.selectedIndex = (select.selectedIndex + by + select.options.length) % select.options.length;
  drawImage();
}

function chooseImageModel() {
  const gallery = DATA.galleries[byId("image-model").value];
  const classes = Object.fromEntries(DATA.images.map((image) => [image.id, image.class]));
  fill(byId("image"), gallery.images.map((id) => [id, `${id} (${classes[id]})`]));
  fill(byId("image-layer"), gallery.layers, byId("image-layer").value || gallery.layers.at(-2));
  const maps = gallery.attention;
  const heads = maps ? [...Array(maps.shape[2]).keys()].map((head) => [String(head), `head ${head}`]) : [];
  fill(byId("head"), [["all", "all heads"], ...heads]);
  fill(byId("query"), maps ? maps.queries : ["—"]);
  drawImage();
}

// A run of numbers as the rows of a grid, the first row on top.
function rowsOf(values, start, [rows, columns]) {
  return [...Array(rows).keys()].map((row) =>
    Array.from(values.slice(start + row * columns, start + (row + 1) * columns)));
}

function drawImage() {
  const model = byId("image-model").value, gallery = DATA.galleries[model];
  const place = gallery.images.indexOf(byId("image").value);
  const layer = gallery.layers.indexOf(byId("image-layer").value);
  const image = DATA.images.find((one) => one.id === byId("image").value);
  byId("picture").hidden = !image.picture;
  if (image.picture) byId("picture").src = image.picture;
  byId("picture").alt = `image ${image.id} of class ${image.class}`;
  byId("picture-said").textContent = image.picture ? `${image.id}, class ${image.class}`
    : `${image.id}: no model of this study keeps its picture`;
  Object.entries(DATA.quantities).forEach(([name, title], i) =>
    drawQuantity(`quantity-${i}`, gallery, name, title, layer, place));
  byId("image-said").textContent = `${model}, ${image.id}, class ${image.class}, `
    + `at layer ${gallery.layers[layer]}`;
  drawAttention(gallery, layer, place);
}

function drawQuantity(id, gallery, name, title, layer, place) {
  const {shape} = gallery.quantities[name], values = unpacked(gallery.quantities[name]);
  const start = (layer * shape[1] + place) * shape[2];
  const here = Array.from(values.slice(start, start + shape[2])).filter(Number.isFinite);
  const [least, most] = [Math.min(...here), Math.max(...here)];
  byId(id).setAttribute("aria-label", `${title}, patch by patch: ${shown(least)} to ${shown(most)}`);
  Plotly.react(id, [{type: "heatmap", z: rowsOf(values, start, gallery.grid), colorscale: "Viridis",
    colorbar: {thickness: 10, len: 0.9, x: 0.76, nticks: 5}, hovertemplate: "row %{y}, column %{x}: %{z:.4g}<extra></extra>"}],
  {font: {...FONT, size: 11}, title: {text: title, font: {size: 12}, x: 0.02}, margin: {l: 0, r: 0, t: 34, b: 30, autoexpand: false},
    xaxis: {visible: false, domain: [0, 0.74], constrain: "domain"},
    yaxis: {visible: false, autorange: "reversed", scaleanchor: "x", constrain: "domain"}},
  {...CONFIG, displayModeBar: false});
}

function drawAttention(gallery, layer, place) {
  const maps = gallery.attention, box = byId("attention"), note = byId("attention-note");
  const block = gallery.layers[layer].match(/^block\.(\d+)(\.attention)?$/);
  let why = "";
  if (!maps) why = `No attention: ${gallery.absent.attention ?? "none was kept"}.`;
  else if (!block) why = "No attention at this layer: choose a block.";
  else if (place >= maps.shape[1]) why = `Attention is kept of the first ${maps.shape[1]} images.`;
  box.hidden = Boolean(why);
  if (why) { note.textContent = why; return; }
  const heads = byId("head").value === "all" ? [...Array(maps.shape[2]).keys()] : [Number(byId("head").value)];
  const query = maps.queries.indexOf(byId("query").value);
  const values = unpacked(maps), [, images, count, queries, keys] = maps.shape;
  const grids = heads.map((head) => {
    const start = ((((Number(block[1]) * images + place) * count + head) * queries) + query) * keys;
    const probabilities = Array.from(values.slice(start, start + keys), (byte) => byte * byte * maps.scale);
    return rowsOf(probabilities, 0, gallery.grid);
  });
  const most = Math.max(...grids.flat(2));
  const columns = Math.min(4, heads.length), lines = Math.ceil(heads.length / columns);
  const layout = {font: FONT, margin: {l: 10, r: 70, t: 30, b: 10}, annotations: [],
    coloraxis: {colorscale: "Cividis", cmin: 0, cmax: most, colorbar: {title: {text: "attention"}, thickness: 12}}};
  const traces = grids.map((grid, i) => {
    const column = i % columns, row = Math.floor(i / columns), end = i ? i + 1 : "";
    const x = [(column + 0.04) / columns, (column + 0.96) / columns];
    const y = [1 - (row + 0.98) / lines, 1 - (row + 0.1) / lines];
    layout[`xaxis${end}`] = {visible: false, domain: x, constrain: "domain"};
    layout[`yaxis${end}`] = {visible: false, domain: y, autorange: "reversed", scaleanchor: `x${end}`, constrain: "domain"};
    layout.annotations.push({text: `head ${heads[i]}`, showarrow: false, xref: "paper", yref: "paper",
      x: (x[0] + x[1]) / 2, y: y[1], yanchor: "bottom", xanchor: "center"});
    return {type: "heatmap", z: grid, coloraxis: "coloraxis", xaxis: `x${end}`, yaxis: `y${end}`,
      hovertemplate: `head ${heads[i]}, row %{y}, column %{x}: %{z:.4g}<extra></extra>`};
  });
  box.style.height = `${Math.max(260, 210 * lines)}px`;
  note.textContent = `Attention of ${byId("query").value} to the patches in ${block[0]}, `
    + `to ${shown(most)} at most; uniform is ${shown(1 / maps.tokens)}.`;
  box.setAttribute("aria-label", note.textContent);
  Plotly.react("attention", traces, layout, CONFIG);
}

// ---- findings
function startFindings() {
  byId("verdict").addEventListener("change", drawFindings);
  drawFindings();
}

function drawFindings() {
  const wanted = byId("verdict").value;
  const some = DATA.findings.map((statement) => ({...statement,
    verdicts: statement.verdicts.filter((one) => !wanted || one.verdict === wanted)}))
    .filter((statement) => statement.verdicts.length);
  byId("findings-said").textContent = `${some.length} of ${DATA.findings.length} statements`;
  byId("statements").replaceChildren(...some.map(statementOf));
}

function statementOf(statement) {
  const article = element("article"), table = element("table"), body = element("tbody");
  for (const one of statement.verdicts) {
    const row = element("tr"), kind = one.verdict.startsWith("not") ? "untestable" : one.verdict;
    const numbers = one.numbers.map((n) => `${n.quantity} ${shown(n.value)}`
      + (n.low === null ? "" : ` [${shown(n.low)}, ${shown(n.high)}]`)
      + (unitOf(n.unit) ? ` ${n.unit}` : ""));
    row.append(element("th", one.subject || "this study", {scope: "row"}),
      element("td", one.verdict, {class: `verdict ${kind}`}),
      element("td", [one.reason, numbers.join("; ")].filter(Boolean).join(": "), {class: "wide"}));
    body.append(row);
  }
  table.append(element("caption", `Source: ${statement.source}`), body);
  article.append(element("h3", statement.claim), table, element("p", `Rule: ${statement.rule}`, {class: "rule"}));
  if (statement.beside) article.append(element("p", statement.beside, {class: "beside"}));
  return article;
}

// ---- the table of all numbers
const SHOWN = COLUMNS.filter((name) => name !== "study");
const NUMERIC = ["depth", "relative_depth", "value", "low", "high"];
const order = {column: null, down: false, first: 0};

function startNumbers() {
  fill(byId("of-model"), [["", "all"], ...distinct(ROWS, "model")]);
  fill(byId("of-metric"), [["", "all"], ...distinct(ROWS, "metric")]);
  const search = () => { order.first = 0; drawNumbers(); };
  for (const id of ["of-model", "of-metric", "search"]) byId(id).addEventListener("input", search);
  byId("previous-rows").addEventListener("click", () => { order.first -= PAGE_ROWS; drawNumbers(); });
  byId("next-rows").addEventListener("click", () => { order.first += PAGE_ROWS; drawNumbers(); });
  byId("summary").tHead.rows[0].append(...SHOWN.map((name) => {
    const head = element("th", null, {scope: "col", "aria-sort": "none"});
    const button = element("button", name.replace("_", " "), {type: "button"});
    button.addEventListener("click", () => sortBy(name));
    head.append(button);
    return head;
  }));
  drawNumbers();
}

function sortBy(name) {
  order.down = order.column === name && !order.down;
  order.column = name;
  order.first = 0;
  drawNumbers();
}

function drawNumbers() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const model = byId("of-model").value, metric = byId("of-metric").value;
  const found = ROWS.filter((row) => (!model || row.model === model) && (!metric || row.metric === metric)
    && words.every((word) => [row.variable, row.layer, row.feature, row.note, row.model, row.metric]
      .some((text) => text.toLowerCase().includes(word))));
  if (order.column) found.sort(compare);
  order.first = Math.min(Math.max(0, order.first), Math.max(0, found.length - 1));
  const page = found.slice(order.first, order.first + PAGE_ROWS);
  byId("summary").tBodies[0].replaceChildren(...page.map((row) => {
    const made = element("tr");
    made.append(...SHOWN.map((name) => NUMERIC.includes(name)
      ? element("td", shown(row[name]), {class: "number"}) : element("td", row[name], {class: "wide"})));
    return made;
  }));
  SHOWN.forEach((name, i) => byId("summary").tHead.rows[0].cells[i].setAttribute(
    "aria-sort", name !== order.column ? "none" : order.down ? "descending" : "ascending"));
  byId("numbers-said").textContent = found.length
    ? `rows ${order.first + 1} to ${order.first + page.length} of ${found.length}` : "no row is like that";
  byId("previous-rows").disabled = order.first === 0;
  byId("next-rows").disabled = order.first + PAGE_ROWS >= found.length;
}

// Rows without a value last, whichever way.
function compare(a, b) {
  const [x, y] = [a[order.column], b[order.column]];
  if (x === null || y === null) return (x === null) - (y === null);
  const sign = NUMERIC.includes(order.column) ? x - y : x.localeCompare(y, "en", {numeric: true});
  return order.down ? -sign : sign;
}

// ---- how it was made
function flat(value, path = []) {
  if (value === null || typeof value !== "object" || !Object.keys(value).length)
    return [[path.join("."), JSON.stringify(value)]];
  if (Array.isArray(value) && value.every((one) => one === null || typeof one !== "object"))
    return [[path.join("."), JSON.stringify(value)]];
  return Object.entries(value).flatMap(([key, below]) => flat(below, [...path, key]));
}

function pairs(id, entries) {
  const body = element("tbody");
  body.append(...entries.map(([name, value]) => {
    const row = element("tr");
    row.append(element("th", name, {scope: "row"}), element("td", value, {class: "wide"}));
    return row;
  }));
  byId(id).replaceChildren(body);
}

function startMade() {
  const facts = [...new Set(DATA.models.flatMap((model) => Object.keys(model.facts)))];
  const head = element("thead"), row = element("tr"), body = element("tbody");
  row.append(...["model", ...facts].map((name) => element("th", name, {scope: "col"})));
  head.append(row);
  body.append(...DATA.models.map((model) => cells([model.name, ...facts.map((fact) => {
    const value = model.facts[fact];
    if (fact === "weights_digest") return value.slice(0, 16);
    return typeof value === "number" ? shown(value) : value ?? "";
  })])));
  byId("facts").append(head, body);
  pairs("settings", flat(DATA.settings));
  pairs("versions", Object.entries(DATA.versions));
}

byId("study").textContent = DATA.study;
startCurves();
startImages();
startFindings();
startNumbers();
startMade();
