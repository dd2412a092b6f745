// Draws: the timeline of what can be restored, and charts over time. Numbers in, SVG out; knows nothing of where they are from.
"use strict";

const SVG = "http://www.w3.org/2000/svg";

function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

function svg(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes || {})) if (value !== null && value !== undefined) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const DAY = 86400000;
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const two = (number) => String(number).padStart(2, "0");
const dayOf = (ms) => { const d = new Date(ms); return `${d.getUTCDate()} ${MONTHS[d.getUTCMonth()]}`; };
const clock = (ms) => { const d = new Date(ms); return `${two(d.getUTCHours())}:${two(d.getUTCMinutes())}`; };

// Round places between two instants, at most `most` of them.
function places(from, to, most) {
  const steps = [60e3, 5 * 60e3, 15 * 60e3, 3600e3, 3 * 3600e3, 6 * 3600e3, 12 * 3600e3, DAY, 2 * DAY, 7 * DAY, 14 * DAY];
  const step = steps.find((one) => (to - from) / one <= most);
  const found = [];
  if (step) for (let at = Math.ceil(from / step) * step; at <= to; at += step) found.push([at, step < DAY ? (at % DAY === 0 ? dayOf(at) : clock(at)) : dayOf(at)]);
  else {
    const d = new Date(from);
    let year = d.getUTCFullYear(), month = d.getUTCMonth() + 1;
    const every = Math.max(1, Math.ceil((to - from) / (30.4 * DAY) / most));
    for (let at = Date.UTC(year, month, 1); at <= to; month += every, at = Date.UTC(year, month, 1)) {
      const own = new Date(at);
      found.push([at, own.getUTCMonth() === 0 ? String(own.getUTCFullYear()) : MONTHS[own.getUTCMonth()]]);
    }
  }
  return found;
}

// The recovery window: zoomed by buttons, wheel and keys; an instant is picked by click, or by arrows and Enter.
class Timeline {
  constructor(host, pick) {
    this.host = host;
    this.pick = pick;
    this.view = null;
    this.cursor = null;
    new ResizeObserver(() => this.draw()).observe(host);
  }
  show(data) {
    const was = this.data;
    this.data = data;
    // Who looks at the end goes on looking at it.
    if (!this.view) this.view = [Math.max(data.from, data.start), data.to];
    else if (was && this.view[1] === was.to) this.view = [this.view[0] + data.to - was.to, data.to];
    this.draw();
  }
  zoom(factor, around) {
    if (!this.data) return;
    const [from, to] = this.view;
    const center = around ?? this.cursor ?? to;
    const span = Math.min(this.data.to - this.data.from, Math.max(10 * 60e3, (to - from) * factor));
    const share = (center - from) / (to - from);
    this.move(center - span * Math.min(1, Math.max(0, share)), span);
  }
  move(from, span) {
    const start = Math.max(this.data.from, Math.min(from, this.data.to - span));
    this.view = [start, start + span];
    this.draw();
  }
  all() {
    if (this.data) { this.view = [this.data.from, this.data.to]; this.draw(); }
  }
  choose(at) {
    this.cursor = Math.max(this.data.from, Math.min(at, this.data.to));
    const [from, to] = this.view;
    if (this.cursor < from || this.cursor > to) this.move(this.cursor - (to - from) / 2, to - from);
    else this.draw();
  }
  keys(event) {
    const span = this.view[1] - this.view[0], step = span / 50, at = this.cursor ?? this.view[1];
    const acts = {
      ArrowLeft: () => this.choose(at - step), ArrowRight: () => this.choose(at + step), PageUp: () => this.choose(at - span), PageDown: () => this.choose(at + span),
      Home: () => this.choose(this.data.from), End: () => this.choose(this.data.to), "+": () => this.zoom(0.5), "=": () => this.zoom(0.5), "-": () => this.zoom(2), "0": () => this.all(),
      Enter: () => this.pick(at), " ": () => this.pick(at),
    };
    if (acts[event.key]) { event.preventDefault(); acts[event.key](); }
  }
  draw() {
    if (!this.data) return;
    const width = Math.max(280, this.host.clientWidth), height = 132, top = 26, low = 96;
    const [from, to] = this.view, { reach, gaps, backups, words } = this.data;
    const x = (at) => 10 + ((at - from) / (to - from)) * (width - 20);
    const inside = (at) => Math.max(-20, Math.min(width + 20, x(at)));
    const drawn = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "slider", tabindex: 0, "aria-label": "Instant to restore. Arrows move, plus and minus zoom, Enter picks",
      "aria-valuemin": this.data.from, "aria-valuemax": this.data.to, "aria-valuenow": this.cursor ?? this.data.to, "aria-valuetext": this.cursor ? words(this.cursor) : "now" });
    for (const [at, word] of places(from, to, width / 90)) {
      drawn.append(svg("line", { class: "grid", x1: x(at), x2: x(at), y1: top, y2: low }), svg("text", { x: x(at), y: low + 22, "text-anchor": "middle" }, word));
    }
    if (reach) {
      drawn.append(svg("rect", { class: "reach", x: inside(reach[0]), width: Math.max(1, inside(reach[1]) - inside(reach[0])), y: top + 14, height: low - top - 28 }));
      for (const at of reach) if (at >= from && at <= to) drawn.append(svg("line", { class: "reach-edge", x1: x(at), x2: x(at), y1: top + 8, y2: low - 8 }));
    }
    for (const gap of gaps) {
      drawn.append(svg("rect", { class: "gap", x: inside(gap.from), width: Math.max(3, inside(gap.until) - inside(gap.from)), y: top + 14, height: low - top - 28 }, svg("title", {}, `cannot be restored: ${gap.what}`)));
    }
    for (const backup of backups) {
      if (backup.at < from || backup.at > to) continue;
      const own = backup.alone ? " alone" : "";
      drawn.append(svg("line", { class: `tick${own}`, x1: x(backup.at), x2: x(backup.at), y1: top + 4, y2: low - 14 }), svg("circle", { class: `tick-dot${own}`, cx: x(backup.at), cy: top + 2, r: 3.5 }, svg("title", {}, backup.words)));
    }
    if (this.cursor !== null && this.cursor >= from && this.cursor <= to) {
      const at = x(this.cursor), side = at > width * 0.8 ? "end" : at < width * 0.2 ? "start" : "middle";
      drawn.append(svg("line", { class: "chosen", x1: at, x2: at, y1: top - 8, y2: low }), svg("text", { x: at, y: 13, "text-anchor": side }, words(this.cursor)));
    }
    const instant = (event) => from + ((event.clientX - drawn.getBoundingClientRect().left) / drawn.getBoundingClientRect().width * width - 10) / (width - 20) * (to - from);
    drawn.addEventListener("click", (event) => { this.choose(instant(event)); this.pick(this.cursor); });
    drawn.addEventListener("keydown", (event) => this.keys(event));
    drawn.addEventListener("wheel", (event) => { if (event.ctrlKey || event.shiftKey) { event.preventDefault(); this.zoom(event.deltaY > 0 ? 1.3 : 0.77, instant(event)); } }, { passive: false });
    const had = this.host.contains(document.activeElement);
    this.host.replaceChildren(drawn);
    if (had) drawn.focus({ preventScroll: true });
  }
}

// A line over time, with a limit and a forecast where there are any.
function chart({ samples, limit, limitWords, forecast, words, label, least }) {
  if (samples.length < 2) return el("p", { class: "soft" }, "Not enough was measured yet.");
  const width = 520, height = 190, left = 62, right = 8, top = 12, bottom = 26;
  const from = samples[0][0], to = forecast ? forecast[1][0] : samples[samples.length - 1][0];
  const most = Math.max(least || 0, ...samples.map((s) => s[1]), ...(forecast ? [forecast[1][1]] : []), limit && limit < 4 * Math.max(least || 0, ...samples.map((s) => s[1])) ? limit : 0) * 1.08 || 1;
  const x = (at) => left + ((at - from) / (to - from)) * (width - left - right);
  const y = (value) => top + (1 - value / most) * (height - top - bottom);
  const path = samples.map(([at, value], i) => `${i ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`).join("");
  const drawn = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  for (const share of [0, 0.5, 1]) {
    const value = (most / 1.08) * share;
    drawn.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }), svg("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, words(value)));
  }
  for (const [at, word] of places(from, to, 5)) drawn.append(svg("text", { x: Math.min(x(at), width - 18), y: height - 8, "text-anchor": "middle" }, word));
  drawn.append(svg("path", { class: "area", d: `${path}L${x(samples[samples.length - 1][0])} ${y(0)}L${x(from)} ${y(0)}Z` }), svg("path", { class: "line", d: path }));
  if (forecast) drawn.append(svg("path", { class: "forecast", d: `M${x(forecast[0][0])} ${y(forecast[0][1])}L${x(forecast[1][0])} ${y(forecast[1][1])}` }));
  if (limit && limit <= most) drawn.append(svg("line", { class: "limit", x1: left, x2: width - right, y1: y(limit), y2: y(limit) }), svg("text", { x: width - right, y: y(limit) - 5, "text-anchor": "end" }, limitWords));
  return el("div", { class: "chart" }, drawn);
}
