// The disconnectivity graph: wheel, pinch and buttons zoom, dragging moves; lines and labels keep their size.
(() => {
  const svg = document.getElementById("tree");
  const graph = JSON.parse(document.getElementById("thalweg-data").textContent).graph;
  if (!svg || !graph) return;
  const [left, right, bottom, top] = graph.frame;
  const whole = graph.view.slice();
  let view = whole.slice();
  const paths = svg.querySelectorAll(".branches path");
  const leaves = svg.querySelectorAll(".leaf");
  const axis = svg.querySelector(".axis");
  const px = (x) => left + ((x - view[0]) / (view[1] - view[0])) * (right - left);
  const py = (e) => bottom + ((e - view[2]) / (view[3] - view[2])) * (top - bottom);
  const made = (name, attributes, text) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text) element.textContent = text;
    return element;
  };
  const scale = () => {
    const span = view[3] - view[2];
    const raw = span / 6, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * power).reduce((a, b) => (Math.abs(b / raw - 1) < Math.abs(a / raw - 1) ? b : a));
    const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    axis.replaceChildren();
    for (let k = Math.ceil(view[2] / step - 1e-9); k * step <= view[3] + 1e-9 * span; k++) {
      const y = py(k * step).toFixed(1);
      axis.append(made("path", { class: "grid", d: `M${left} ${y}H${right}` }));
      const text = (k * step).toFixed(decimals).replace("-", "−");
      axis.append(made("text", { class: "tick", x: left - 7, y: Number(y) + 4, "text-anchor": "end" }, text));
    }
  };
  const draw = () => {
    graph.branches.forEach(([a, e, c, bend, end], k) => {
      paths[k].setAttribute("d", `M${px(a).toFixed(1)} ${py(e).toFixed(1)}L${px(c).toFixed(1)} ${py(bend).toFixed(1)}V${py(end).toFixed(1)}`);
    });
    graph.leaves.forEach(([x, e], k) => {
      const [circle, text] = [leaves[k].querySelector("circle"), leaves[k].querySelector("text")];
      circle.setAttribute("cx", px(x).toFixed(1));
      circle.setAttribute("cy", py(e).toFixed(1));
      if (text) {
        text.setAttribute("x", px(x).toFixed(1));
        text.setAttribute("y", (py(e) + 15).toFixed(1));
      }
    });
    scale();
    svg.dataset.view = view.map((v) => v.toPrecision(8)).join(" ");
  };
  // Ends of an interval zoomed about a place in it, never wider than the whole and inside it.
  const zoomed = (lo, hi, at, factor, wide) => {
    const span = Math.min(Math.max((hi - lo) * factor, 1e-6 * (wide[1] - wide[0])), wide[1] - wide[0]);
    const part = (at - lo) / (hi - lo);
    const start = Math.min(Math.max(at - part * span, wide[0]), wide[1] - span);
    return [start, start + span];
  };
  const zoom = (factor, x, y, both = true) => {
    const ends = zoomed(view[2], view[3], y, factor, whole.slice(2));
    const sides = both ? zoomed(view[0], view[1], x, factor, whole.slice(0, 2)) : view.slice(0, 2);
    view = [...sides, ...ends];
    draw();
  };
  const place = (event) => {
    const box = svg.getBoundingClientRect();
    const u = ((event.clientX - box.x) / box.width) * svg.viewBox.baseVal.width;
    const v = ((event.clientY - box.y) / box.height) * svg.viewBox.baseVal.height;
    return [
      view[0] + ((u - left) / (right - left)) * (view[1] - view[0]),
      view[2] + ((v - bottom) / (top - bottom)) * (view[3] - view[2]),
    ];
  };
  const fingers = new Map();
  let awake = false;
  svg.addEventListener("wheel", (event) => {
    if (!awake) return; // the page scrolls until the graph was clicked
    event.preventDefault();
    zoom(Math.exp(Math.min(Math.max(event.deltaY, -100), 100) / 300), ...place(event), !event.shiftKey);
  }, { passive: false });
  document.addEventListener("pointerdown", (event) => { awake = svg.contains(event.target); });
  svg.addEventListener("pointerdown", (event) => { fingers.set(event.pointerId, event); });
  document.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    if (fingers.size === 1) {
      const [from, to] = [place(before), place(event)];
      const shift = (lo, hi, by, wide) => {
        const start = Math.min(Math.max(lo - by, wide[0]), wide[1] - (hi - lo));
        return [start, start + hi - lo];
      };
      view = [
        ...shift(view[0], view[1], to[0] - from[0], whole.slice(0, 2)),
        ...shift(view[2], view[3], to[1] - from[1], whole.slice(2)),
      ];
      draw();
    } else if (fingers.size === 2) {
      const other = [...fingers.values()].find((f) => f.pointerId !== event.pointerId);
      const apart = (f) => Math.hypot(f.clientX - other.clientX, f.clientY - other.clientY);
      if (apart(event) > 1) zoom(apart(before) / apart(event), ...place(event));
    }
    fingers.set(event.pointerId, event);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    document.addEventListener(end, (event) => fingers.delete(event.pointerId));
  }
  document.addEventListener("click", (event) => {
    const button = event.target instanceof Element ? event.target.closest("[data-tree]") : null;
    if (!button) return;
    if (button.dataset.tree === "reset") {
      view = whole.slice();
      draw();
    } else {
      zoom(button.dataset.tree === "in" ? 0.6 : 1 / 0.6, (view[0] + view[1]) / 2, (view[2] + view[3]) / 2);
    }
  });
  svg.addEventListener("keydown", (event) => {
    if (event.key === "+" || event.key === "-") {
      zoom(event.key === "+" ? 0.6 : 1 / 0.6, (view[0] + view[1]) / 2, (view[2] + view[3]) / 2);
    }
  });
  draw();
})();
