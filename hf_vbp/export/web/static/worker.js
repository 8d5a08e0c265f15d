// The models run here, so that the page stays responsive. One request at a time; each answer has the id of its request.
import { AutoImageProcessor, AutoModel, LogLevel, RawImage, env } from "./vendor/transformers.min.js";
import { resizeAsPillow } from "./resize.js";

env.allowLocalModels = true;
env.allowRemoteModels = false;
env.localModelPath = "./";
// Models that were exported again must not come from an earlier copy; the browser's HTTP cache compares dates.
env.useBrowserCache = false;
env.useWasmCache = false;
env.logLevel = LogLevel.ERROR;
env.backends.onnx.wasm.wasmPaths = {
  mjs: new URL("vendor/ort-wasm-simd-threaded.mjs", import.meta.url).href,
  wasm: new URL("vendor/ort-wasm-simd-threaded.wasm", import.meta.url).href,
};
env.fetch = fetchWithProgress;
resizeAsPillow(RawImage);

const loaded = new Map();
let picture = null;

/** Fetch a file; the bytes of a model are reported as they arrive. */
async function fetchWithProgress(url, options) {
  const response = await fetch(url, options);
  if (!String(url).endsWith(".onnx") || !response.ok || !response.body) {
    return response;
  }
  let received = 0;
  const counter = new TransformStream({
    transform(chunk, controller) {
      received += chunk.byteLength;
      self.postMessage({ progress: received });
      controller.enqueue(chunk);
    },
  });
  const { status, headers } = response;
  return new Response(response.body.pipeThrough(counter), { status, headers });
}

const handlers = {
  /** Answer that transformers.js is loaded. */
  hello() {},

  /** Load a model in a precision, in place of the one of the same folder. */
  async load({ folder, dtype }) {
    await loaded.get(folder)?.model.dispose();
    loaded.delete(folder);
    const response = await fetch(`${folder}/config.json`);
    if (!response.ok) {
      throw new Error(`${folder}/config.json: status ${response.status}`);
    }
    const config = await response.json();
    const processor = await AutoImageProcessor.from_pretrained(folder);
    // The type only chooses a class of transformers.js; classifiers need none, and not every type has one there.
    const options = { config: { model_type: "custom" }, device: "wasm", dtype };
    const model = await AutoModel.from_pretrained(folder, options);
    const multiple = config.problem_type === "multi_label_classification";
    const entry = { model, processor, multiple, labels: config.id2label ?? {} };
    // The first run is slower than those after it.
    await run(entry, new RawImage(new Uint8ClampedArray(64 * 64 * 3), 64, 64, 3));
    loaded.set(folder, entry);
  },

  /** Decode a picture and keep it: upright, without conversion of colors, as Python's data pipeline does. */
  async picture({ blob }) {
    picture = null;
    const bitmap = await createImageBitmap(blob, {
      imageOrientation: "from-image",
      colorSpaceConversion: "none",
      premultiplyAlpha: "none",
    });
    const { width, height } = bitmap;
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
    picture = new RawImage(context.getImageData(0, 0, width, height).data, width, height, 4).rgb();
    return { width, height };
  },

  /** Classify the picture, and return its five best classes, the milliseconds of each run and the threads. */
  async classify({ folder, runs }) {
    const entry = loaded.get(folder);
    const times = [];
    let result = null;
    for (let count = 0; count < runs; ++count) {
      result = await run(entry, picture.clone());
      times.push(result.model);
    }
    // ONNX Runtime chooses it: half of the cores, at most four; one where the page is not isolated from other origins.
    const threads = env.backends.onnx.wasm.numThreads;
    return { best: bestOf(result.logits, entry), prepare: result.prepare, times, threads };
  },
};

async function run({ model, processor }, image) {
  const start = performance.now();
  const { pixel_values } = await processor(image);
  const prepared = performance.now();
  const { logits } = await model({ pixel_values });
  return { logits: Array.from(logits.data), prepare: prepared - start, model: performance.now() - prepared };
}

function bestOf(logits, { multiple, labels }) {
  const largest = Math.max(...logits);
  const exponentials = logits.map((value) => Math.exp(value - largest));
  const sum = exponentials.reduce((total, value) => total + value, 0);
  const scores = multiple
    ? logits.map((value) => 1 / (1 + Math.exp(-value)))
    : exponentials.map((value) => value / sum);
  return scores
    .map((score, index) => ({ label: labels[index] ?? `class ${index}`, score }))
    .sort((one, other) => other.score - one.score)
    .slice(0, 5);
}

let queue = Promise.resolve();
self.onmessage = ({ data: { id, request, ...values } }) => {
  queue = queue.then(async () => {
    try {
      self.postMessage({ id, result: await handlers[request](values) });
    } catch (error) {
      self.postMessage({ id, error: String(error?.message ?? error) });
    }
  });
};
