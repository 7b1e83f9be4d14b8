'use strict';
// A point cloud to turn with the mouse. One per element of class `cloud`; its data is the JSON inside that element.

const POINT_SHADER = `
attribute vec3 position; attribute vec3 normal; attribute vec3 photo; attribute vec3 instance; attribute float id;
uniform mat4 view; uniform vec3 eye; uniform float size, chosen, byInstance, cull;
varying vec3 colour;
void main() {
  gl_Position = view * vec4(position, 1.0);
  if (cull > 0.5 && dot(normal, eye - position) < -0.1 * length(eye - position)) gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
  gl_PointSize = clamp(size / gl_Position.w, 1.5, 12.0);
  colour = byInstance > 0.5 ? instance : photo;
  if (chosen > 0.5 && abs(id - chosen) > 0.5) colour = mix(vec3(dot(colour, vec3(0.33))), vec3(0.6), 0.7);
  else if (chosen > 0.5) colour = mix(photo, instance, 0.75);
}`;
const LINE_SHADER = `
attribute vec3 position; uniform mat4 view; varying vec3 colour;
void main() { gl_Position = view * vec4(position, 1.0); colour = vec3(0.92, 0.38, 0.24); }`;
const COLOUR_SHADER = 'precision mediump float; varying vec3 colour; void main() { gl_FragColor = vec4(colour, 1.0); }';

function bytes(text) { return Uint8Array.from(atob(text), letter => letter.charCodeAt(0)); }

function program(gl, source) {
  const made = gl.createProgram();
  for (const [kind, text] of [[gl.VERTEX_SHADER, source], [gl.FRAGMENT_SHADER, COLOUR_SHADER]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text); gl.compileShader(shader); gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  return made;
}

function attribute(gl, made, name, values, width, type, normalised) {
  const buffer = gl.createBuffer(), place = gl.getAttribLocation(made, name);
  gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
  gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
  return () => {
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, width, type, normalised, 0, 0);
  };
}

const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const mix = (a, s, b, t) => a.map((value, i) => value * s + b[i] * t);

function cloudViewer(root) {
  const data = JSON.parse(root.querySelector('script').textContent);
  const canvas = root.querySelector('canvas'), gl = canvas.getContext('webgl', {antialias: true});
  if (!gl) { root.querySelector('.hint').textContent = 'No WebGL here: see the still pictures below.'; return; }
  const points = program(gl, POINT_SHADER), lines = program(gl, LINE_SHADER);
  const packed = new Uint16Array(bytes(data.positions).buffer), count = packed.length / 3;
  const positions = new Float32Array(packed.length);
  for (let i = 0; i < packed.length; i++) positions[i] = data.low[i % 3] + packed[i] / 65535 * data.extent[i % 3];
  const ids = new Uint16Array(bytes(data.ids).buffer), tints = new Uint8Array(packed.length);
  for (let i = 0; i < count; i++) tints.set(data.palette[ids[i]], 3 * i);
  const bindPoints = [
    attribute(gl, points, 'position', positions, 3, gl.FLOAT, false),
    attribute(gl, points, 'normal', new Int8Array(bytes(data.normals).buffer), 3, gl.BYTE, true),
    attribute(gl, points, 'photo', bytes(data.colours), 3, gl.UNSIGNED_BYTE, true),
    attribute(gl, points, 'instance', tints, 3, gl.UNSIGNED_BYTE, true),
    attribute(gl, points, 'id', Float32Array.from(ids), 1, gl.FLOAT, false)];
  const bindLines = attribute(gl, lines, 'position', new Float32Array(data.cameras), 3, gl.FLOAT, false);
  const start = {yaw: data.yaw, pitch: data.pitch, distance: 1.75, shift: [0, 0]};
  const state = {...start, shift: [0, 0], byInstance: false, cull: true, cameras: true, chosen: 0};

  function stand() {
    const [right0, up0, back0] = data.axes, cy = Math.cos(state.yaw), sy = Math.sin(state.yaw);
    const cp = Math.cos(state.pitch), sp = Math.sin(state.pitch);
    const right = mix(right0, cy, back0, -sy), back = mix(mix(right0, sy, back0, cy), cp, up0, sp);
    const up = cross(back, right), r = data.radius;
    const target = mix(mix(data.centre, 1, right, -state.shift[0] * r), 1, up, state.shift[1] * r);
    return {right, up, back, eye: mix(target, 1, back, state.distance * r)};
  }

  function draw() {
    const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth * ratio, height = canvas.clientHeight * ratio;
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    const {right, up, back, eye} = stand(), near = 0.02 * data.radius, far = 20 * data.radius, f = 2.2;
    const fx = f * Math.min(1, height / width), fy = fx * width / height, a = (far + near) / (near - far), b = 2 * far * near / (near - far);
    const x = dot(right, eye), y = dot(up, eye), z = dot(back, eye), view = new Float32Array(16);
    for (let i = 0; i < 3; i++) view.set([fx * right[i], fy * up[i], a * back[i], -back[i]], 4 * i);
    view.set([-fx * x, -fy * y, -a * z + b, z], 12);
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(0, 0, 0, 0); gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT); gl.enable(gl.DEPTH_TEST);
    gl.useProgram(points);
    const set = (name, value) => gl.uniform1f(gl.getUniformLocation(points, name), value);
    gl.uniformMatrix4fv(gl.getUniformLocation(points, 'view'), false, view);
    gl.uniform3fv(gl.getUniformLocation(points, 'eye'), eye);
    set('size', data.spacing * fx * canvas.width / 2 * 1.35); set('chosen', state.chosen);
    set('byInstance', +state.byInstance); set('cull', +state.cull);
    bindPoints.forEach(bind => bind());
    gl.drawArrays(gl.POINTS, 0, count);
    if (!state.cameras) return;
    for (let i = 1; i < 5; i++) gl.disableVertexAttribArray(i);
    gl.useProgram(lines); bindLines();
    gl.uniformMatrix4fv(gl.getUniformLocation(lines, 'view'), false, view);
    gl.drawArrays(gl.LINES, 0, data.cameras.length / 3);
  }
  let pending = false;
  function redraw() { if (!pending) { pending = true; requestAnimationFrame(() => { pending = false; draw(); }); } }
  function zoom(factor) { state.distance = Math.min(Math.max(state.distance * factor, 0.05), 12); redraw(); }

  const held = new Map();
  canvas.addEventListener('pointerdown', event => { held.set(event.pointerId, event); canvas.setPointerCapture(event.pointerId); });
  for (const end of ['pointerup', 'pointercancel']) canvas.addEventListener(end, event => held.delete(event.pointerId));
  canvas.addEventListener('pointermove', event => {
    const before = held.get(event.pointerId);
    if (!before) return;
    const dx = (event.clientX - before.clientX) / canvas.clientHeight, dy = (event.clientY - before.clientY) / canvas.clientHeight;
    if (held.size === 2) {
      const other = [...held.values()].find(item => item.pointerId !== event.pointerId);
      const reach = item => Math.hypot(item.clientX - other.clientX, item.clientY - other.clientY) + 1;
      zoom(reach(before) / reach(event));
    } else if (event.shiftKey || event.buttons & 2) {
      state.shift[0] += dx * state.distance; state.shift[1] += dy * state.distance;
    } else {
      state.yaw -= dx * 4; state.pitch = Math.min(Math.max(state.pitch + dy * 4, -1.55), 1.55);
    }
    held.set(event.pointerId, event);
    redraw();
  });
  canvas.addEventListener('contextmenu', event => event.preventDefault());
  canvas.addEventListener('wheel', event => {
    if (document.activeElement !== canvas && !event.ctrlKey) return;        // the page scrolls until the cloud is clicked
    event.preventDefault(); zoom(Math.exp(event.deltaY * 0.0012));
  }, {passive: false});
  canvas.addEventListener('dblclick', () => { Object.assign(state, start, {shift: [0, 0]}); redraw(); });
  canvas.addEventListener('keydown', event => {
    const turn = {ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1]}[event.key];
    if (turn) { event.preventDefault(); state.yaw += turn[0]; state.pitch = Math.min(Math.max(state.pitch + turn[1], -1.55), 1.55); redraw(); }
    if (event.key === '+' || event.key === '-') zoom(event.key === '+' ? 0.9 : 1.1);
  });
  for (const button of root.querySelectorAll('button')) {
    const name = button.dataset.toggle;
    const show = () => button.setAttribute('aria-pressed', String(state[name]));
    button.addEventListener('click', () => { state[name] = !state[name]; show(); redraw(); });
    show();
  }
  const rows = root.closest('.scene').querySelectorAll('[data-instance]');
  for (const row of rows) row.addEventListener('click', () => {
    const id = +row.dataset.instance;
    state.chosen = state.chosen === id ? 0 : id;
    for (const other of rows) other.classList.toggle('chosen', +other.dataset.instance === state.chosen);
    redraw();
  });
  new ResizeObserver(redraw).observe(canvas);
  draw();
}
document.querySelectorAll('.cloud').forEach(cloudViewer);
