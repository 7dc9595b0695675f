// The radiograph: pictures by position, zoom, pan, window and level. Nothing here knows of decisions.
const $ = (id) => document.getElementById(id);
const START = { scale: 1, x: 0, y: 0, window: 255, level: 127.5, invert: false };
const KEPT = 6; // pictures held in memory

export class Viewer {
  // `shown` is told true once the picture of the present trace can be seen, false before.
  constructor(shown) {
    this.shown = shown;
    this.pictures = new Map(); // position -> promise of a blob's address
    this.position = -1;
    this.view = { ...START };
    this.fingers = new Map();
    this.listen();
    this.draw();
  }

  async show(position) {
    if (position === this.position) return;
    this.position = position;
    this.shown(false);
    $("film").removeAttribute("src");
    $("film").alt = "";
    $("film-note").textContent = "Loading the image…";
    this.reset();
    try {
      const address = await this.picture(position);
      if (position !== this.position) return; // the reader went on meanwhile
      $("film").src = address;
      await $("film").decode();
      if (position !== this.position) return;
      $("film").alt = `Radiograph of trace ${position + 1}`;
      $("film-note").textContent = "";
      this.shown(true);
    } catch (error) {
      if (position !== this.position) return;
      this.pictures.delete(position); // the next visit tries again
      $("film-note").textContent = error.message;
    }
  }

  // Fetches ahead, so that going on is instant; a failure shows when the trace is opened.
  prepare(position) {
    this.picture(position).catch(() => this.pictures.delete(position));
  }

  picture(position) {
    const known = this.pictures.get(position);
    if (known) return known;
    const coming = fetch(`image/${position}`).then(async (reply) => {
      if (!reply.ok) throw new Error((await reply.json()).faults.join("; "));
      return URL.createObjectURL(await reply.blob());
    }, () => { throw new Error("The server cannot be reached: no image."); });
    this.pictures.set(position, coming);
    for (const old of [...this.pictures.keys()].slice(0, -KEPT)) {
      if (old === this.position) continue;
      this.pictures.get(old).then(URL.revokeObjectURL, () => {});
      this.pictures.delete(old);
    }
    return coming;
  }

  reset() {
    this.view = { ...START };
    this.draw();
  }

  // Zooms by `factor` about a point of the stage, its middle where none is given.
  zoom(factor, x = $("stage").clientWidth / 2, y = $("stage").clientHeight / 2) {
    const view = this.view;
    const scale = Math.min(12, Math.max(1, view.scale * factor));
    const ratio = scale / view.scale;
    Object.assign(view, { scale, x: x - (x - view.x) * ratio, y: y - (y - view.y) * ratio });
    this.draw();
  }

  invert() {
    this.view.invert = !this.view.invert;
    this.draw();
  }

  draw() {
    const view = this.view, stage = $("stage");
    // The picture never leaves the stage: at scale 1 it stands still.
    view.x = Math.min(0, Math.max(stage.clientWidth * (1 - view.scale), view.x));
    view.y = Math.min(0, Math.max(stage.clientHeight * (1 - view.scale), view.y));
    view.window = Math.min(510, Math.max(2, view.window));
    view.level = Math.min(255, Math.max(0, view.level));
    $("film").style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
    // out = (in - (level - window / 2)) / window, in units of full white
    const slope = 255 / view.window, intercept = 0.5 - view.level / view.window;
    for (const channel of document.querySelectorAll("#grey feFuncR, #grey feFuncG, #grey feFuncB")) {
      channel.setAttribute("slope", view.invert ? -slope : slope);
      channel.setAttribute("intercept", view.invert ? 1 - intercept : intercept);
    }
    $("window").value = view.window;
    $("level").value = view.level;
    $("window-value").value = Math.round(view.window);
    $("level-value").value = Math.round(view.level);
    $("zoom-value").value = `${Math.round(view.scale * 100)} %`;
    $("invert").setAttribute("aria-pressed", String(view.invert));
  }

  listen() {
    const stage = $("stage");
    $("window").addEventListener("input", () => this.set("window"));
    $("level").addEventListener("input", () => this.set("level"));
    $("zoom-in").addEventListener("click", () => this.zoom(1.25));
    $("zoom-out").addEventListener("click", () => this.zoom(0.8));
    $("invert").addEventListener("click", () => this.invert());
    $("reset").addEventListener("click", () => this.reset());
    stage.addEventListener("dblclick", () => this.reset());
    stage.addEventListener("contextmenu", (event) => event.preventDefault());
    stage.addEventListener("wheel", (event) => {
      event.preventDefault();
      const box = stage.getBoundingClientRect();
      this.zoom(Math.exp(-event.deltaY / 400), event.clientX - box.left, event.clientY - box.top);
    }, { passive: false });
    stage.addEventListener("pointerdown", (event) => {
      stage.setPointerCapture(event.pointerId);
      stage.classList.add("moving");
      this.fingers.set(event.pointerId, [event.clientX, event.clientY]);
    });
    stage.addEventListener("pointermove", (event) => this.drag(event));
    for (const end of ["pointerup", "pointercancel"]) {
      stage.addEventListener(end, (event) => {
        this.fingers.delete(event.pointerId);
        stage.classList.toggle("moving", this.fingers.size > 0);
      });
    }
    window.addEventListener("resize", () => this.draw());
  }

  set(name) {
    this.view[name] = Number($(name).value);
    this.draw();
  }

  drag(event) {
    const before = this.fingers.get(event.pointerId);
    if (!before) return;
    const other = [...this.fingers].find(([id]) => id !== event.pointerId)?.[1];
    const now = [event.clientX, event.clientY];
    this.fingers.set(event.pointerId, now);
    const dx = now[0] - before[0], dy = now[1] - before[1];
    if (other) { // two fingers: the distance between them zooms
      const box = $("stage").getBoundingClientRect();
      const factor = Math.hypot(now[0] - other[0], now[1] - other[1]) / Math.hypot(before[0] - other[0], before[1] - other[1]);
      this.zoom(factor || 1, (now[0] + other[0]) / 2 - box.left, (now[1] + other[1]) / 2 - box.top);
    } else if (event.buttons === 2 || event.shiftKey) {
      this.view.window += dx;
      this.view.level += dy;
      this.draw();
    } else {
      this.view.x += dx;
      this.view.y += dy;
      this.draw();
    }
  }
}
