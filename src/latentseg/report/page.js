"use strict";

// Tables are sorted by the column whose heading is pressed.
document.querySelectorAll("th button").forEach((button) => button.addEventListener("click", () => {
  const head = button.closest("th"), body = head.closest("table").tBodies[0];
  const column = head.cellIndex, down = head.getAttribute("aria-sort") !== "descending";
  const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const rows = [...body.rows].sort((a, b) => {
    const x = value(a), y = value(b), p = parseFloat(x), q = parseFloat(y);
    const order = isNaN(p) && isNaN(q) ? x.localeCompare(y) : (isNaN(p) ? -Infinity : p) - (isNaN(q) ? -Infinity : q);
    return down ? -order : order;
  });
  head.parentNode.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  body.append(...rows);
}));

// Pictures are enlarged when they are pressed.
const zoom = document.getElementById("zoom");
document.querySelectorAll("figure .well").forEach((well) => well.addEventListener("click", () => {
  const image = well.firstElementChild;
  zoom.firstElementChild.src = image.src;
  zoom.firstElementChild.alt = image.alt;
  zoom.showModal();
}));
zoom.addEventListener("click", () => zoom.close());

const HEAT = [[30, 20, 80], [120, 28, 109], [206, 68, 71], [247, 148, 29], [252, 245, 160]];

// Slices of a scan: grey values are brought to their window here, and what was found is drawn over them.
class Viewer {
  constructor(root) {
    this.root = root;
    this.plan = JSON.parse(root.dataset.plan);
    this.sheet = document.getElementById(root.dataset.stack);
    this.sheets = [...root.querySelectorAll("img")];
    this.canvas = root.querySelector("canvas");
    [this.canvas.width, this.canvas.height] = this.plan.size;
    this.context = this.canvas.getContext("2d", { willReadFrequently: true });
    this.tools = Object.fromEntries([...root.querySelectorAll("[name]")].map((tool) => [tool.name, tool]));
    this.layers = [...root.querySelectorAll(".layers input")];
    this.values = this.intensities();
    this.connect();
    root.hidden = false;
  }

  // Intensity of each of the 256 grey values of the sheet.
  intensities() {
    const levels = this.plan.levels, found = [];
    for (let grey = 0, at = 0; grey < 256; grey++) {
      while (at < levels.length - 2 && grey > levels[at + 1][1]) at++;
      const [low, from] = levels[at], [high, to] = levels[at + 1];
      found.push(low + (high - low) * (grey - from) / (to - from));
    }
    return found;
  }

  connect() {
    const { slice, preset, level, width } = this.tools, redraw = () => this.draw();
    slice.max = this.plan.names.length - 1;
    slice.value = this.plan.first;
    const [low, high] = [this.values[0], this.values[255]];
    [level.min, level.max, width.min, width.max] = [low, high, (high - low) / 200, high - low];
    level.step = width.step = (high - low) / 1000;
    this.plan.windows.forEach(([name]) => preset.add(new Option(name, name)));
    preset.add(new Option("own", ""));
    preset.value = this.plan.window;
    this.choose();
    preset.addEventListener("input", () => { this.choose(); redraw(); });
    [level, width].forEach((tool) => tool.addEventListener("input", () => { preset.value = ""; redraw(); }));
    [slice, this.tools.opacity, ...this.layers].forEach((tool) => tool.addEventListener("input", redraw));
    const stage = this.root.querySelector(".stage");
    stage.addEventListener("wheel", (event) => {  // the page scrolls on until a viewer has been pressed
      if (document.activeElement !== stage || !event.deltaY) return;
      event.preventDefault();
      this.step(event.deltaY > 0 ? -1 : 1);
    }, { passive: false });
    stage.addEventListener("keydown", (event) => {
      const steps = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 5, PageDown: -5 };
      if (!(event.key in steps)) return;
      event.preventDefault();
      this.step(steps[event.key]);
    });
    this.root.querySelector(".stage button").addEventListener("click", () =>
      document.fullscreenElement ? document.exitFullscreen() : this.root.requestFullscreen());
  }

  step(by) {
    this.tools.slice.value = Number(this.tools.slice.value) + by;
    this.draw();
  }

  choose() {
    const chosen = this.plan.windows.find(([name]) => name === this.tools.preset.value);
    if (!chosen) return;
    const [, low, high] = chosen;
    this.tools.level.value = (low + high) / 2;
    this.tools.width.value = high - low;
    this.exact = [low, high];
  }

  window() {
    if (this.tools.preset.value) return this.exact;
    const level = Number(this.tools.level.value), width = Number(this.tools.width.value);
    return [level - width / 2, level + width / 2];
  }

  pixels(image, k) {
    const [wide, tall] = this.plan.size, columns = this.plan.columns;
    const x = (k % columns) * wide, y = Math.floor(k / columns) * tall;
    this.context.drawImage(image, x, y, wide, tall, 0, 0, wide, tall);
    return this.context.getImageData(0, 0, wide, tall);
  }

  draw() {
    if (!this.sheet.naturalWidth) return;
    const k = Number(this.tools.slice.value), [low, high] = this.window(), picture = this.pixels(this.sheet, k);
    const shades = this.values.map((value) => 255 * Math.min(1, Math.max(0, (value - low) / (high - low))));
    const out = picture.data, opacity = Number(this.tools.opacity.value);
    for (let i = 0; i < out.length; i += 4) out[i] = out[i + 1] = out[i + 2] = shades[out[i]];
    this.plan.overlays.forEach((overlay, number) => {
      if (!this.layers[number].checked || !this.sheets[number].naturalWidth) return;
      const inside = this.pixels(this.sheets[number], k).data;
      overlay.heat ? this.tint(out, inside, opacity) : this.outline(out, inside, overlay.color, opacity);
    });
    this.context.putImageData(picture, 0, 0);
    const unit = this.plan.unit && ` ${this.plan.unit}`;
    const shown = `${this.plan.names[k]} · ${Math.round(low)} to ${Math.round(high)}${unit}`;
    this.root.querySelector("output").textContent = shown;
    this.tools.slice.setAttribute("aria-valuetext", this.plan.names[k]);
  }

  // A mask: its border in full, its inside as opaque as asked for.
  outline(out, inside, color, opacity) {
    const [wide, tall] = this.plan.size;
    const held = (x, y) => x >= 0 && y >= 0 && x < wide && y < tall && inside[4 * (y * wide + x)] > 127;
    for (let y = 0; y < tall; y++) for (let x = 0; x < wide; x++) {
      if (!held(x, y)) continue;
      const within = held(x - 1, y) && held(x + 1, y) && held(x, y - 1) && held(x, y + 1);
      blend(out, 4 * (y * wide + x), color, within ? opacity : 1);
    }
  }

  tint(out, inside, opacity) {
    for (let i = 0; i < out.length; i += 4) {
      const chance = inside[i] / 255;
      if (chance < 0.04) continue;
      const at = chance * (HEAT.length - 1), below = Math.min(HEAT.length - 2, Math.floor(at));
      const color = HEAT[below].map((value, c) => value + (HEAT[below + 1][c] - value) * (at - below));
      blend(out, i, color, Math.min(1, 2.4 * opacity) * Math.min(1, 1.5 * chance));
    }
  }
}

function blend(out, at, color, share) {
  for (let c = 0; c < 3; c++) out[at + c] += (color[c] - out[at + c]) * share;
}

const viewers = new Map([...document.querySelectorAll(".viewer")].map((root) => [root, new Viewer(root)]));
const near = new IntersectionObserver((entries) => entries.forEach((entry) => {
  if (!entry.isIntersecting) return;
  near.unobserve(entry.target);
  viewers.get(entry.target).draw();
}), { rootMargin: "600px" });
addEventListener("load", () => viewers.forEach((_, root) => near.observe(root)));
