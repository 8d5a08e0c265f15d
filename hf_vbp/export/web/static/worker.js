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

// Milliseconds of runs that are not counted.
const WARM_UP = 1000;

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

  /** Classify the picture, and return its five best classes and the times. */
  async classify({ folder }) {
    const entry = loaded.get(folder);
    const { logits, prepare, model } = await run(entry, picture.clone());
    return { best: bestOf(logits, entry), prepare, times: [model], threads: threads() };
  },

  /** Time some models in turns on the picture; return for each folder the milliseconds of each run. */
  async measure({ folders, runs }) {
    const times = folders.map(() => []);
    const inputs = [];
    for (const folder of folders) {
      const { model, processor } = loaded.get(folder);
      inputs.push({ model, pixel_values: (await processor(picture.clone())).pixel_values });
    }
    const round = async (keep) => {
      for (const [index, { model, pixel_values }] of inputs.entries()) {
        const start = performance.now();
        await model({ pixel_values });
        if (keep) times[index].push(performance.now() - start);
      }
    };
    // Browsers compile code again that runs often, so the first runs are slower.
    const end = performance.now() + WARM_UP;
    for (let count = 0; count < 3 || performance.now() < end; ++count) await round(false);
    for (let count = 0; count < runs; ++count) await round(true);
    return { times, threads: threads() };
  },
};

/** ONNX Runtime chooses them: half of the cores, at most four; one where other origins are not shut out. */
function threads() {
  return env.backends.onnx.wasm.numThreads;
}

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
