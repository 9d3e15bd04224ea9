// The 3D view: shaded balls and bonds on a 2D canvas, painted from back to front. No WebGL, so it works everywhere.
(() => {
  const data = JSON.parse(document.getElementById("thalweg-data").textContent);
  const root = document.getElementById("viewer");
  const canvas = root && root.querySelector("canvas");
  const pen = canvas && canvas.getContext("2d");
  if (!pen || !data.minima.length) return;  // the still picture stays

  const caption = root.querySelector("figcaption");
  const link = document.getElementById("download");
  const FOG = 8;  // shades of depth
  const PIECES = 16;  // of an edge of the cell
  const mix = (a, b, part) => a.map((v, i) => v + part * (b[i] - v));
  let shown = 0, turn = [], zoom = 1, spheres = false, printing = false, queued = false, sprites = {};

  // ---- geometry -------------------------------------------------------------------------------------------------
  const models = data.minima.map((m) => {
    const n = m.species.length, x = [], centre = m.centre || [0, 0, 0];
    if (!m.centre) for (let i = 0; i < 3 * n; i++) centre[i % 3] += m.positions[i] / n;
    const about = (p) => [0, 1, 2].map((c) => p[c] - centre[c]);
    for (let i = 0; i < n; i++) x.push(about(m.positions.slice(3 * i, 3 * i + 3)));
    const radius = m.species.map((s) => data.species[s].radius);
    // Edges of the cell in pieces, so that balls hide what is behind them; bonds that leave it, to half their length.
    const frame = [];
    for (const e of m.edges || []) {
      const a = about(e.slice(0, 3)), b = about(e.slice(3));
      for (let k = 0; k < PIECES; k++) frame.push([mix(a, b, k / PIECES), mix(a, b, (k + 1) / PIECES)]);
    }
    const stubs = (m.stubs || []).map((s) => [s[0], about(s.slice(1))]);
    const reach = Math.max(...x.map((p, i) => Math.hypot(...p) + radius[i]), ...frame.map((e) => Math.hypot(...e[0])));
    return { n, x, radius, reach, frame, stubs, bonds: null, energy: m.energy, species: m.species, raw: m.positions, view: m.view, head: m.head, pbc: m.pbc };
  });

  function bondsOf(model) {
    if (model.bonds) return model.bonds;
    const { n, x, radius } = model, found = [];
    for (let i = 0; i < n; i++) {
      for (let j = i + 1; j < n; j++) {
        const d = [0, 1, 2].map((c) => x[j][c] - x[i][c]);
        const length = Math.hypot(...d);
        if (length > 0 && length < data.reach * (radius[i] + radius[j])) found.push([i, j]);
      }
    }
    return (model.bonds = found);
  }

  const rotated = (m, p) => [0, 3, 6].map((r) => m[r] * p[0] + m[r + 1] * p[1] + m[r + 2] * p[2]);

  // Turn by angles (radians) about the screen's x and y axes, whatever the present orientation.
  function rotate(aboutX, aboutY) {
    const cx = Math.cos(aboutX), sx = Math.sin(aboutX), cy = Math.cos(aboutY), sy = Math.sin(aboutY);
    const step = [cy, 0, sy, sx * sy, cx, -sx * cy, -cx * sy, sx, cx * cy];
    const next = [];
    for (let r = 0; r < 3; r++) {
      for (let c = 0; c < 3; c++) next.push(step[3 * r] * turn[c] + step[3 * r + 1] * turn[3 + c] + step[3 * r + 2] * turn[6 + c]);
    }
    turn = next;
    draw();
  }

  // ---- painting -------------------------------------------------------------------------------------------------
  const levels = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const css = (c) => `rgb(${c.map(Math.round).join(",")})`;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const ground = () => (dark.matches && !printing ? [25, 31, 39] : [246, 247, 249]);

  function sprite(species, fog) {
    const key = species + "/" + fog;
    if (sprites[key]) return sprites[key];
    const size = 128, ball = document.createElement("canvas"), part = 0.5 * (fog / (FOG - 1));
    ball.width = ball.height = size;
    const p = ball.getContext("2d"), base = levels(data.species[species].colour), far = ground();
    const shade = p.createRadialGradient(size * 0.36, size * 0.32, size * 0.02, size * 0.44, size * 0.42, size * 0.6);
    shade.addColorStop(0, css(mix(mix(base, [255, 255, 255], 0.75), far, part)));
    shade.addColorStop(0.3, css(mix(mix(base, [255, 255, 255], 0.15), far, part)));
    shade.addColorStop(0.65, css(mix(mix(base, [0, 0, 0], 0.18), far, part)));
    shade.addColorStop(1, css(mix(mix(base, [0, 0, 0], 0.6), far, part)));
    p.fillStyle = shade;
    p.beginPath();
    p.arc(size / 2, size / 2, size / 2 - 1, 0, 2 * Math.PI);
    p.fill();
    return (sprites[key] = ball);
  }

  function paint() {
    queued = false;
    const model = models[shown], ratio = Math.min(window.devicePixelRatio || 1, 2);
    const width = canvas.clientWidth, height = canvas.clientHeight;
    if (!width || !height) return;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);

    const eye = 5 * model.reach, scale = (0.5 * Math.min(width, height) * zoom) / model.reach;
    const seen = model.x.map((p) => rotated(turn, p));
    const project = (p) => { const f = (scale * eye) / (eye - p[2]); return [width / 2 + f * p[0], height / 2 - f * p[1], f]; };
    const depth = (z) => Math.min(FOG - 1, Math.max(0, Math.round((FOG - 1) * (0.5 - z / (2 * model.reach)))));
    const ball = (i) => model.radius[i] * (spheres ? 1 : data.ball);

    const items = seen.map((p, i) => ({ z: p[2], atom: i }));
    const bonds = spheres ? [] : bondsOf(model);
    for (const [i, j] of bonds) items.push({ z: (seen[i][2] + seen[j][2]) / 2, bond: [seen[i], seen[j]], cut: [ball(i), ball(j)], wide: model.radius[i] + model.radius[j] });
    for (const [i, p] of spheres ? [] : model.stubs) {
      const half = rotated(turn, p);
      items.push({ z: (seen[i][2] + half[2]) / 2, bond: [seen[i], half], cut: [ball(i), 0], wide: 2 * model.radius[i] });
    }
    const within = Math.max(...model.radius) * (spheres ? 1 : data.ball);  // pieces inside a ball are behind its front
    for (const edge of model.frame) {
      const [a, b] = edge.map((p) => rotated(turn, p));
      items.push({ z: (a[2] + b[2]) / 2 - within, edge: [a, b] });
    }
    items.sort((a, b) => a.z - b.z);

    const far = ground(), bondColour = dark.matches && !printing ? [150, 160, 172] : [120, 128, 138];
    const edgeColour = dark.matches && !printing ? [176, 188, 200] : [96, 106, 118];
    let atoms = 0, pieces = 0;
    pen.lineCap = "butt";
    for (const item of items) {
      if (item.bond) {
        const [a, b] = item.bond;
        const length = Math.hypot(b[0] - a[0], b[1] - a[1], b[2] - a[2]);
        // From just under one ball's surface to just under the other's: then the middle's depth decides rightly.
        const cut = (p, q, r) => p.map((v, c) => v + ((q[c] - v) * 0.8 * r) / length);
        const from = project(cut(a, b, item.cut[0])), to = project(cut(b, a, item.cut[1]));
        const thick = 0.09 * item.wide * data.ball * (from[2] + to[2]);
        const colour = mix(bondColour, far, 0.6 * (depth(item.z) / (FOG - 1)));
        for (const [part, tone] of [[1, mix(colour, [0, 0, 0], 0.35)], [0.6, colour]]) {
          pen.strokeStyle = css(tone);
          pen.lineWidth = Math.max(0.6, part * thick);
          pen.beginPath();
          pen.moveTo(from[0], from[1]);
          pen.lineTo(to[0], to[1]);
          pen.stroke();
        }
      } else if (item.edge) {
        const [from, to] = item.edge.map(project);
        pen.strokeStyle = css(mix(edgeColour, far, 0.55 * (depth(item.z + within) / (FOG - 1))));
        pen.lineWidth = 1.4;
        pen.beginPath();
        pen.moveTo(from[0], from[1]);
        pen.lineTo(to[0], to[1]);
        pen.stroke();
        pieces++;
      } else {
        const [px, py, f] = project(seen[item.atom]), r = f * ball(item.atom);
        pen.drawImage(sprite(model.species[item.atom], depth(item.z)), px - r, py - r, 2 * r, 2 * r);
        atoms++;
      }
    }
    Object.assign(root.dataset, { minimum: shown + 1, atoms, bonds: bonds.length, stubs: spheres ? 0 : model.stubs.length, edges: pieces / PIECES, zoom: zoom.toFixed(3), turn: turn.map((v) => v.toFixed(4)).join(" ") });
  }

  function draw() {
    if (!queued) { queued = true; requestAnimationFrame(paint); }
  }

  // ---- which minimum --------------------------------------------------------------------------------------------
  function xyz(k) {
    const model = models[k], lines = [String(model.n)];
    lines.push(`${model.head}Properties=species:S:1:pos:R:3 energy=${model.energy.toFixed(9)} minimum=${k + 1} pbc="${model.pbc}"`);
    for (let i = 0; i < model.n; i++) {
      const place = [0, 1, 2].map((c) => model.raw[3 * i + c].toFixed(8));
      lines.push([data.species[model.species[i]].symbol, ...place].join(" "));
    }
    return lines.join("\n") + "\n";
  }

  function show(k) {
    shown = k;
    turn = models[k].view.slice();
    for (const owner of document.querySelectorAll("[data-show]")) {
      const chosen = Number(owner.dataset.show) === k;
      owner.classList.toggle("chosen", chosen);
      if (owner.tagName === "BUTTON") {
        owner.setAttribute("aria-pressed", String(chosen));
        if (chosen) caption.textContent = owner.dataset.caption;
      }
    }
    link.href = "data:chemical/x-xyz;charset=utf-8," + encodeURIComponent(xyz(k));
    link.download = `${link.dataset.name}-minimum-${k + 1}.xyz`;
    draw();
  }

  function scaleBy(factor) {
    zoom = Math.min(8, Math.max(0.4, zoom * factor));
    draw();
  }

  const actions = {
    larger: () => scaleBy(1.25),
    smaller: () => scaleBy(0.8),
    reset: () => { zoom = 1; show(shown); },
    spheres: (button) => { spheres = !spheres; button.setAttribute("aria-pressed", String(spheres)); draw(); },
  };
  document.addEventListener("click", (event) => {
    const owner = event.target.closest("[data-show], [data-do]");
    if (!owner) return;
    if (owner.dataset.do) actions[owner.dataset.do](owner);
    else show(Number(owner.dataset.show));
  });

  // ---- hands ----------------------------------------------------------------------------------------------------
  const fingers = new Map();
  let apart = 0;
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
    apart = 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
    if (fingers.size === 1) {
      rotate((event.clientY - before[1]) * 0.01, (event.clientX - before[0]) * 0.01);
    } else if (fingers.size === 2) {
      const [a, b] = [...fingers.values()], now = Math.hypot(a[0] - b[0], a[1] - b[1]);
      if (apart > 0) scaleBy(now / apart);
      apart = now;
    }
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (event) => { fingers.delete(event.pointerId); apart = 0; });
  canvas.addEventListener("wheel", (event) => {
    // Scrolling past the picture must not be caught by it; a pinch on a trackpad arrives with ctrlKey.
    if (document.activeElement !== canvas && !event.ctrlKey) return;
    event.preventDefault();
    scaleBy(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)));
  }, { passive: false });
  const keys = {
    ArrowLeft: () => rotate(0, -0.15), ArrowRight: () => rotate(0, 0.15), ArrowUp: () => rotate(-0.15, 0), ArrowDown: () => rotate(0.15, 0),
    "+": () => scaleBy(1.25), "=": () => scaleBy(1.25), "-": () => scaleBy(0.8), "0": actions.reset,
  };
  canvas.addEventListener("keydown", (event) => {
    const action = !event.ctrlKey && !event.metaKey && !event.altKey && keys[event.key];
    if (action) { event.preventDefault(); action(); }
  });

  // ---- surroundings ---------------------------------------------------------------------------------------------
  const repaint = () => { sprites = {}; paint(); };
  dark.addEventListener("change", repaint);
  window.addEventListener("beforeprint", () => { printing = true; repaint(); });
  window.addEventListener("afterprint", () => { printing = false; repaint(); });
  canvas.hidden = false;
  root.querySelector(".still").remove();
  new ResizeObserver(draw).observe(canvas);
  show(0);
})();
