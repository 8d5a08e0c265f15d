// Requests to the worker that runs the models.

export class Models {
  #worker;
  #pending = new Map();
  #count = 0;
  #onProgress = null;

  /** Start the worker, and wait until it has loaded transformers.js. */
  static async start() {
    if (typeof WebAssembly !== "object" || typeof OffscreenCanvas !== "function") {
      throw new Error("this browser has no WebAssembly or no OffscreenCanvas; use a newer one");
    }
    const models = new Models();
    await models.ask("hello");
    return models;
  }

  constructor() {
    this.#worker = new Worker("worker.js", { type: "module" });
    this.#worker.onmessage = ({ data }) => this.#receive(data);
    this.#worker.onerror = (event) => {
      event.preventDefault();
      const error = new Error(event.message || "transformers.js in the folder vendor could not be loaded");
      this.#pending.forEach(({ reject }) => reject(error));
      this.#pending.clear();
    };
  }

  /** Send a request and return its answer; `onProgress` gets the bytes of a model that have arrived. */
  ask(request, values = {}, onProgress = null) {
    const id = ++this.#count;
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject });
      if (onProgress) this.#onProgress = onProgress;
      this.#worker.postMessage({ id, request, ...values });
    });
  }

  #receive({ id, result, error, progress }) {
    if (progress !== undefined) {
      this.#onProgress?.(progress);
      return;
    }
    const request = this.#pending.get(id);
    this.#pending.delete(id);
    if (error === undefined) {
      request?.resolve(result);
    } else {
      request?.reject(new Error(error));
    }
  }
}
