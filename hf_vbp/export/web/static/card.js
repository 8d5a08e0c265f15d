// The results of one model.

const PRECISIONS = { fp32: "float32", q8: "8 bits" };
const percent = new Intl.NumberFormat("en", { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
const milliseconds = (value) => `${value.toFixed(value < 100 ? 1 : 0)} ms`;
const readable = (bytes) => (bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);

export class Card {
  loaded = false;
  #select;

  /**
   * @param model An entry of page.json: name, folder, files.
   * @param template The <template> of a card.
   * @param onPrecision Called with the card when another precision was chosen.
   */
  constructor(model, template, onPrecision) {
    this.model = model;
    this.root = template.content.cloneNode(true).firstElementChild;
    const id = `precision-${model.name.toLowerCase().replace(/\W+/g, "-")}`;
    this.#select = this.find("select");
    this.#select.id = id;
    this.find("label").htmlFor = id;
    this.find("label").textContent = `Precision of ${model.name}`;
    this.#select.replaceChildren(...model.files.map(({ dtype }) => new Option(PRECISIONS[dtype] ?? dtype, dtype)));
    this.find(".precision").hidden = model.files.length < 2;
    this.#select.addEventListener("change", () => {
      this.#showSize();
      this.clear();
      onPrecision(this);
    });
    this.find("h3").textContent = model.name;
    this.find("caption").textContent = `Five best classes of ${model.name}`;
    this.#showSize();
    this.clear();
  }

  get dtype() {
    return this.#select.value;
  }

  get bytes() {
    return this.model.files.find(({ dtype }) => dtype === this.dtype).bytes;
  }

  find(selector) {
    return this.root.querySelector(selector);
  }

  busy() {
    this.root.setAttribute("aria-busy", "true");
  }

  clear() {
    this.root.removeAttribute("aria-busy");
    this.find("tbody").replaceChildren();
    this.find("table").hidden = true;
    this.find(".time").textContent = "No result yet.";
  }

  /** Show the answer of the worker to "classify". */
  show({ best, prepare, times, threads }) {
    this.root.removeAttribute("aria-busy");
    this.find("table").hidden = false;
    this.find("tbody").replaceChildren(...best.map(({ label, score }) => this.#row(label, score)));
    this.showTimes(times, threads);
    this.find(".time").textContent += ` Resizing ${milliseconds(prepare)}.`;
  }

  /** Show the median of the times of runs, in milliseconds. */
  showTimes(times, threads) {
    const median = [...times].sort((one, other) => one - other)[Math.floor(times.length / 2)];
    const runs = times.length > 1 ? `median of ${times.length} runs` : "one run";
    const cores = threads > 1 ? `${threads} threads` : "1 thread";
    this.find(".time").textContent = `Model ${milliseconds(median)} (${runs}, ${cores}).`;
  }

  #row(label, score) {
    const row = document.createElement("tr");
    const value = document.createElement("data");
    value.value = String(score);
    value.textContent = percent.format(score);
    row.insertCell().textContent = label;
    row.insertCell().append(value);
    row.style.setProperty("--share", String(score));
    return row;
  }

  #showSize() {
    this.find(".size").textContent = `${PRECISIONS[this.dtype] ?? this.dtype}, ${readable(this.bytes)}`;
  }
}
