"use strict";
// The networks of this page, in plain JavaScript. Pictures are rows of red, green, blue (height, width, 3), as in a
// file; what the networks compute is channels first (channels, height, width), as in PyTorch.
const DATA = JSON.parse(document.getElementById("data").textContent);
const SIZE = DATA.size, CROP = DATA.crop, ROOM = SIZE - CROP;

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), character => character.charCodeAt(0));
}

// The arrays of a state_dict. "int16": whole numbers with one factor per row, for large matrices.
function weightsOf(tensors) {
  const weights = {};
  for (const [name, {shape, values, scales}] of Object.entries(tensors)) {
    const buffer = bytesOf(values).buffer;
    if (!scales) { weights[name] = new Float32Array(buffer); continue; }
    const whole = new Int16Array(buffer), factors = new Float32Array(bytesOf(scales).buffer), columns = shape[1];
    weights[name] = Float32Array.from(whole, (value, i) => value * factors[Math.floor(i / columns)]);
  }
  return weights;
}

const CNN = weightsOf(DATA.cnn), FCN = DATA.fcn && weightsOf(DATA.fcn);

// A 5 x 5 convolution without padding, then ReLU: (channels, side, side) to (outputs, side - 4, side - 4).
function convolve(input, channels, side, weight, bias) {
  const out = side - 4, outputs = bias.length, result = new Float32Array(outputs * out * out);
  for (let o = 0; o < outputs; o++) {
    const map = result.subarray(o * out * out, (o + 1) * out * out).fill(bias[o]);
    for (let c = 0; c < channels; c++) for (let ky = 0; ky < 5; ky++) for (let kx = 0; kx < 5; kx++) {
      const w = weight[((o * channels + c) * 5 + ky) * 5 + kx];
      for (let y = 0; y < out; y++) {
        let from = (c * side + y + ky) * side + kx, to = y * out;
        for (let x = 0; x < out; x++) map[to++] += w * input[from++];
      }
    }
    for (let i = 0; i < map.length; i++) if (map[i] < 0) map[i] = 0;
  }
  return result;
}

// The largest of each 2 x 2 values: (channels, side, side) to (channels, side / 2, side / 2).
function pool(input, channels, side) {
  const half = side / 2, result = new Float32Array(channels * half * half);
  for (let c = 0, i = 0; c < channels; c++) for (let y = 0; y < half; y++) for (let x = 0; x < half; x++, i++) {
    const corner = (c * side + 2 * y) * side + 2 * x;
    result[i] = Math.max(input[corner], input[corner + 1], input[corner + side], input[corner + side + 1]);
  }
  return result;
}

function linear(input, weight, bias, relu) {
  const result = new Float32Array(bias.length), columns = input.length;
  for (let row = 0; row < bias.length; row++) {
    let sum = bias[row], at = row * columns;
    for (let i = 0; i < columns; i++) sum += weight[at++] * input[i];
    result[row] = relu && sum < 0 ? 0 : sum;
  }
  return result;
}

// A crop, (48, 48, 3) of 0 to 255, as the networks take it: channels first, minus mean, over deviation.
function normalise(crop) {
  const pixels = CROP * CROP, result = new Float32Array(3 * pixels);
  for (let i = 0; i < pixels; i++) for (let c = 0; c < 3; c++)
    result[c * pixels + i] = (crop[3 * i + c] - DATA.mean[c]) / DATA.std[c];
  return result;
}

function cnn(input) {
  const first = convolve(input, 3, CROP, CNN["0.0.weight"], CNN["0.0.bias"]);
  const second = convolve(pool(first, 8, 44), 8, 22, CNN["0.3.weight"], CNN["0.3.bias"]);
  const hidden = linear(pool(second, 16, 18), CNN["0.7.weight"], CNN["0.7.bias"], true);
  const features = linear(hidden, CNN["0.9.weight"], CNN["0.9.bias"], true);
  return {logits: linear(features, CNN["1.weight"], CNN["1.bias"], false), first, second};
}

function fcn(input) {
  return linear(linear(input, FCN["1.weight"], FCN["1.bias"], true), FCN["3.weight"], FCN["3.bias"], false);
}

function softmax(logits) {
  const top = Math.max(...logits), powers = Array.from(logits, logit => Math.exp(logit - top));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map(power => power / sum);
}

// The central square of a picture at the size of the training images: the mean over each area, by the same rule and
// roundings as PIL's resize, which predict.py uses. pixels: red, green, blue, alpha, as a canvas gives them.
function toSize(pixels, width, height) {
  const ONE = 2 ** 22;  // PIL computes with whole numbers, of which this many are 1
  const side = Math.min(width, height), scale = side / SIZE, wide = Math.max(scale, 1);
  const area = x => (x > -0.5 && x <= 0.5 ? 1 : 0), tent = x => Math.max(0, 1 - Math.abs(x));
  const filter = scale >= 1 ? area : tent, reach = (scale >= 1 ? 0.5 : 1) * wide;
  function taps(start, length) {
    return Array.from({length: SIZE}, (_, i) => {
      const centre = start + (i + 0.5) * scale;
      const from = Math.max(0, Math.trunc(centre - reach + 0.5)), to = Math.min(length, Math.trunc(centre + reach + 0.5));
      const factors = Array.from({length: to - from}, (_, j) => filter((from + j - centre + 0.5) / wide));
      const sum = factors.reduce((a, b) => a + b);
      return {from, factors: factors.map(factor => Math.floor(factor / sum * ONE + 0.5))};
    });
  }
  const columns = taps((width - side) / 2, width), rows = taps((height - side) / 2, height);
  const across = new Uint8ClampedArray(height * SIZE * 3), result = new Uint8ClampedArray(SIZE * SIZE * 3);
  for (let y = 0; y < height; y++) columns.forEach(({from, factors}, x) => {
    for (let c = 0; c < 3; c++) {
      let sum = 0;
      factors.forEach((factor, j) => { sum += factor * pixels[4 * (y * width + from + j) + c]; });
      across[3 * (y * SIZE + x) + c] = Math.floor(sum / ONE + 0.5);
    }
  });
  rows.forEach(({from, factors}, y) => {
    for (let i = 0; i < 3 * SIZE; i++) {
      let sum = 0;
      factors.forEach((factor, j) => { sum += factor * across[(from + j) * 3 * SIZE + i]; });
      result[y * 3 * SIZE + i] = Math.floor(sum / ONE + 0.5);
    }
  });
  return result;
}

// ---- What is shown -------------------------------------------------------------------------------------------------
const $ = id => document.getElementById(id);
const CENTRE = Math.floor(ROOM / 2);
const state = {picture: null, truth: null, left: CENTRE, top: CENTRE, turn: 0, mirror: false, light: 100, noise: 0};
const grain = normalNumbers(SIZE * SIZE * 3);  // one fixed pattern, so that noise does not flicker while one drags

function normalNumbers(count) {
  let seed = 467;
  const uniform = () => (seed = (seed * 1664525 + 1013904223) % 4294967296) / 4294967296;
  return Float32Array.from({length: count}, () => {
    const radius = Math.sqrt(-2 * Math.log(1 - uniform()));
    return radius * Math.cos(2 * Math.PI * uniform());
  });
}

function median(values) {
  return Array.from(values).sort((a, b) => a - b)[Math.floor(values.length / 2)];
}

// The picture turned about its centre, mirrored, dimmed and with noise: (SIZE, SIZE, 3) of 0 to 255.
function scene() {
  const {picture, turn, mirror, light, noise} = state, result = new Float32Array(picture.length);
  const middle = (SIZE - 1) / 2, cos = Math.cos(turn * Math.PI / 180), sin = Math.sin(turn * Math.PI / 180);
  const sky = [0, 1, 2].map(c => median(Array.from({length: SIZE}, (_, i) => picture[3 * i + c])));
  const pixel = (x, y, c) => (x < 0 || y < 0 || x >= SIZE || y >= SIZE ? sky[c] : picture[3 * (y * SIZE + x) + c]);
  for (let y = 0, i = 0; y < SIZE; y++) for (let x = 0; x < SIZE; x++) {
    const dx = (mirror ? -1 : 1) * (x - middle), dy = y - middle;
    const fromX = Math.round((middle + cos * dx + sin * dy) * 1e6) / 1e6;
    const fromY = Math.round((middle - sin * dx + cos * dy) * 1e6) / 1e6;
    const left = Math.floor(fromX), top = Math.floor(fromY), fx = fromX - left, fy = fromY - top;
    for (let c = 0; c < 3; c++, i++) {
      let value = pixel(left, top, c) * (1 - fx) * (1 - fy);
      if (fx) value += pixel(left + 1, top, c) * fx * (1 - fy);
      if (fy) value += pixel(left, top + 1, c) * (1 - fx) * fy;
      if (fx && fy) value += pixel(left + 1, top + 1, c) * fx * fy;
      result[i] = Math.min(255, Math.max(0, value * light / 100 + noise * grain[i]));
    }
  }
  return result;
}

function cropOf(pixels) {
  const crop = new Float32Array(CROP * CROP * 3);
  for (let y = 0; y < CROP; y++) {
    const start = 3 * ((state.top + y) * SIZE + state.left);
    crop.set(pixels.subarray(start, start + 3 * CROP), 3 * y * CROP);
  }
  return crop;
}

function drawPicture(canvas, pixels) {
  const image = new ImageData(SIZE, SIZE);
  for (let i = 0; i < SIZE * SIZE; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = pixels[3 * i + c];
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// From dark over orange to white; all maps of a layer share the scale.
function drawMaps(holder, maps, side) {
  const top = Math.max(1e-9, maps.reduce((a, b) => Math.max(a, b), 0));
  [...holder.children].forEach((canvas, number) => {
    const image = new ImageData(side, side), map = maps.subarray(number * side * side, (number + 1) * side * side);
    map.forEach((value, i) => {
      const v = value / top;
      image.data.set([510 * v, 383 * v * v + 127 * v, 255 * v * v * v, 255], 4 * i);
    });
    canvas.getContext("2d").putImageData(image, 0, 0);
  });
}

function makeMaps(holder, count, side) {
  for (let i = 0; i < count; i++) {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = side;
    holder.append(canvas);
  }
}

const bars = DATA.class_names.map((name, label) => {
  const row = document.createElement("tr");
  row.innerHTML = '<th scope="row"></th><td class="cnn"><i></i><span></span></td><td class="fcn"><i></i><span></span></td>';
  row.firstChild.textContent = `${label}  ${name}`;
  $("bars").append(row);
  return row;
});

function showProbabilities(kind, probabilities) {
  const best = probabilities.indexOf(Math.max(...probabilities));
  bars.forEach((row, label) => {
    const cell = row.querySelector(`.${kind}`);
    cell.firstChild.style.width = `${100 * probabilities[label]}%`;
    cell.lastChild.textContent = `${(100 * probabilities[label]).toFixed(1)}%`;
    cell.classList.toggle("best", label === best);
  });
  return `${DATA.class_names[best]}, ${(100 * probabilities[best]).toFixed(0)}%` +
    (state.truth === null ? "" : best === state.truth ? " – correct" : " – wrong");
}

const page = globalThis.playground = {frames: 0, milliseconds: 0, answer: null};  // what its test looks at
let asked = false, spoken = 0;

function update() {
  asked = false;
  const start = performance.now(), pixels = scene(), input = normalise(cropOf(pixels)), {logits, first, second} = cnn(input);
  page.answer = {cnn: softmax(logits), fcn: FCN ? softmax(fcn(input)) : null};
  drawPicture($("picture"), pixels);
  drawMaps($("first"), first, 44);
  drawMaps($("second"), second, 18);
  const window = $("window").style;
  window.left = `${100 * state.left / SIZE}%`;
  window.top = `${100 * state.top / SIZE}%`;
  const sentences = [`CNN: ${showProbabilities("cnn", page.answer.cnn)}`];
  if (FCN && $("both").checked) sentences.push(`FCN: ${showProbabilities("fcn", page.answer.fcn)}`);
  bars.forEach((row, label) => row.classList.toggle("true", label === state.truth));
  const verdict = $("verdict").textContent = `${sentences.join(". ")}.`;
  clearTimeout(spoken);  // a screen reader reads it out once one pauses
  spoken = setTimeout(() => { $("spoken").textContent = verdict; }, 150);
  for (const name of ["left", "top", "turn", "light", "noise"]) {
    $(name).value = state[name];
    $(`${name}-value`).textContent = state[name] + {left: " px", top: " px", turn: "°", light: "%", noise: ""}[name];
  }
  page.frames++;
  page.milliseconds = performance.now() - start;
  $("speed").textContent = `${page.milliseconds.toFixed(1)} ms for this answer`;
}

function change(values) {
  Object.assign(state, values);
  for (const name of ["left", "top"]) state[name] = Math.min(ROOM, Math.max(0, Math.round(state[name])));
  if (!asked) { asked = true; requestAnimationFrame(update); }
}

function show(picture, truth, sentence) {
  change({picture, truth, left: CENTRE, top: CENTRE});
  $("truth").textContent = sentence;
}

function reset() {
  $("mirror").checked = false;
  change({left: CENTRE, top: CENTRE, turn: 0, mirror: false, light: 100, noise: 0});
}

// ---- What one can do -----------------------------------------------------------------------------------------------
function offer(galaxy, number) {
  const button = document.createElement("button"), canvas = document.createElement("canvas");
  const pixels = bytesOf(galaxy.pixels), name = DATA.class_names[galaxy.label];
  canvas.width = canvas.height = SIZE;
  drawPicture(canvas, pixels);
  button.append(canvas, galaxy.correct ? "✓" : "✗");
  button.title = `${name}; at the centre the CNN is ${galaxy.correct ? "correct" : "wrong"}`;
  button.setAttribute("aria-label", `Test galaxy ${number + 1}: ${button.title}`);
  button.addEventListener("click", () => {
    for (const other of $("galaxies").children) other.setAttribute("aria-pressed", other === button);
    show(pixels, galaxy.label, `True class: ${galaxy.label}  ${name}`);
  });
  button.setAttribute("aria-pressed", "false");
  $("galaxies").append(button);
}

async function openPicture(file) {
  try {
    const bitmap = await createImageBitmap(file, {colorSpaceConversion: "none"}), {width, height} = bitmap;
    if (width * height > 100e6) throw new Error("it has more than 100,000,000 pixels");
    const canvas = document.createElement("canvas"), context = canvas.getContext("2d", {willReadFrequently: true});
    [canvas.width, canvas.height] = [width, height];
    context.fillRect(0, 0, width, height);  // black below what is transparent
    context.drawImage(bitmap, 0, 0);
    for (const button of $("galaxies").children) button.setAttribute("aria-pressed", "false");
    show(toSize(context.getImageData(0, 0, width, height).data, width, height), null, `Your picture: ${file.name}`);
  } catch (error) {
    $("truth").textContent = `${file.name} cannot be shown: ${error.message}`;
  }
}

$("file").addEventListener("change", event => event.target.files[0] && openPicture(event.target.files[0]));
document.addEventListener("dragover", event => event.preventDefault());
document.addEventListener("drop", event => {
  event.preventDefault();
  if (event.dataTransfer.files[0]) openPicture(event.dataTransfer.files[0]);
});

let grip = null;
const stage = $("stage");
stage.addEventListener("pointerdown", event => {
  grip = {x: event.clientX, y: event.clientY, left: state.left, top: state.top};
  if (event.isTrusted) stage.setPointerCapture(event.pointerId);
});
stage.addEventListener("pointermove", event => {
  const pixel = stage.clientWidth / SIZE;
  if (grip) change({left: grip.left + (event.clientX - grip.x) / pixel, top: grip.top + (event.clientY - grip.y) / pixel});
});
for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, () => { grip = null; });
stage.addEventListener("keydown", event => {
  const step = event.shiftKey ? 5 : 1;
  const [x, y] = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key] || [0, 0];
  if (!x && !y) return;
  event.preventDefault();
  change({left: state.left + step * x, top: state.top + step * y});
});
for (const name of ["left", "top", "turn", "light", "noise"])
  $(name).addEventListener("input", event => change({[name]: Number(event.target.value)}));
$("mirror").addEventListener("change", event => change({mirror: event.target.checked}));
$("reset").addEventListener("click", reset);
$("both").addEventListener("change", event => {
  $("answers").classList.toggle("both", event.target.checked);
  change({});
});

makeMaps($("first"), 8, 44);
makeMaps($("second"), 16, 18);
DATA.galaxies.forEach(offer);
$("galaxies").children[0].click();
