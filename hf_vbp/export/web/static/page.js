// The page: pictures come in, results of each model go out. page.json lists the models.
import { startCamera, stopCamera, takePicture } from "./camera.js";
import { Card } from "./card.js";
import { Models } from "./models.js";

const element = (id) => document.getElementById(id);
const status = (text) => { element("status").textContent = text; };
const fail = (text) => { element("error").textContent = text; };

let cards = [];
let models = null;
let ready = Promise.resolve();
let latest = 0;

/** Load a model and show how much of it has arrived. */
async function load(card) {
  const { name, folder } = card.model;
  card.busy();
  const size = card.bytes;
  status(`Loading ${name}.`);
  try {
    await models.ask("load", { folder, dtype: card.dtype }, (received) => {
      status(`Loading ${name}: ${Math.min(100, Math.floor((100 * received) / size))} %.`);
    });
    card.loaded = true;
    status("Ready. Choose a picture.");
  } catch (error) {
    card.loaded = false;
    status("");
    fail(`${name} could not be loaded (${error.message}). Check that all files of the export are on the server.`);
  }
}

/** Take the first file of a list, if there is one. */
function takeFile(files) {
  if (files.length) {
    show(files[0], files[0].name);
  }
}

/** Show a picture and classify it, unless another one comes in the meantime. */
async function show(blob, name) {
  const turn = ++latest;
  await ready;
  if (turn !== latest) return;
  if (!cards.some((card) => card.loaded)) {
    fail("No model is loaded, so no picture can be classified. Load the page again.");
    return;
  }
  fail("");
  status(`Reading ${name}.`);
  try {
    const { width, height } = await models.ask("picture", { blob });
    if (turn !== latest) return;
    showPreview(blob, name, width, height);
  } catch {
    if (turn !== latest) return;
    hideResults();
    status("");
    fail(`${name} is not a picture that this browser can read. Choose a PNG, JPEG or WebP file.`);
    return;
  }
  await classify(turn);
}

/** Load a model in the precision that was just chosen, and run all on the picture that is shown. */
async function changePrecision(card) {
  fail("");
  element("measure").disabled = true;
  ready = ready.then(() => load(card));
  await ready;
  if (!element("shown").hidden) await classify(latest);
}

function hideResults() {
  element("shown").hidden = true;
  element("measure").disabled = true;
  cards.forEach((card) => card.clear());
}

function showPreview(blob, name, width, height) {
  const preview = element("preview");
  URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(blob);
  preview.alt = `Chosen picture: ${name}`;
  preview.classList.toggle("small", Math.max(width, height) < 128);
  element("caption").textContent = `${name}, ${width} × ${height} pixels`;
  element("shown").hidden = false;
}

/** Run each loaded model on the picture and show the results. */
async function classify(turn) {
  const answers = [];
  element("measure").disabled = true;
  for (const card of cards.filter((one) => one.loaded)) {
    card.busy();
    status(`Running ${card.model.name}.`);
    try {
      const result = await models.ask("classify", { folder: card.model.folder });
      if (turn !== latest) return;
      card.show(result);
      answers.push(`${card.model.name}: ${result.best[0].label}`);
    } catch (error) {
      if (turn !== latest) return;
      card.clear();
      fail(`${card.model.name} failed on this picture (${error.message}). Try another picture, or load the page again.`);
    }
  }
  element("measure").disabled = answers.length === 0;
  status(answers.length ? `${answers.join(". ")}.` : "");
}

/** Time the loaded models in turns on the picture that is shown. */
async function measure() {
  const turn = latest;
  const timed = cards.filter((card) => card.loaded);
  element("measure").disabled = true;
  status("Measuring.");
  try {
    const folders = timed.map((card) => card.model.folder);
    const { times, threads } = await models.ask("measure", { folders, runs: 20 });
    if (turn !== latest) return;
    timed.forEach((card, index) => card.showTimes(times[index], threads));
    status("Measured.");
  } catch (error) {
    if (turn !== latest) return;
    status("");
    fail(`The times could not be measured (${error.message}). Load the page again.`);
  }
  element("measure").disabled = false;
}

async function toggleCamera() {
  const button = element("camera");
  const opens = element("viewfinder").hidden;
  fail("");
  try {
    if (opens) {
      await startCamera(element("video"));
    } else {
      stopCamera(element("video"));
    }
  } catch (error) {
    fail(error.message);
    return;
  }
  element("viewfinder").hidden = !opens;
  button.setAttribute("aria-expanded", String(opens));
  button.textContent = opens ? "Close the camera" : "Use the camera";
  if (opens) element("shoot").focus();
}

async function shoot() {
  try {
    await show(await takePicture(element("video")), "Picture of the camera");
  } catch (error) {
    fail(error.message);
  }
}

function listen() {
  const drop = element("drop");
  element("file").addEventListener("change", ({ target }) => {
    takeFile([...target.files]);
    // The same file may be chosen again.
    target.value = "";
  });
  element("camera").addEventListener("click", toggleCamera);
  element("shoot").addEventListener("click", shoot);
  element("measure").addEventListener("click", measure);
  document.addEventListener("paste", ({ clipboardData }) => takeFile([...clipboardData.files]));
  for (const type of ["dragover", "dragleave", "drop"]) {
    // Dropped anywhere, a picture must not replace the page.
    document.addEventListener(type, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", type === "dragover");
    });
  }
  document.addEventListener("drop", ({ dataTransfer }) => {
    const files = [...dataTransfer.files];
    if (!files.length) fail("Nothing that was dropped is a file. Drop a picture file, or choose one.");
    takeFile(files);
  });
}

async function start() {
  listen();
  let page;
  try {
    page = await (await fetch("page.json")).json();
    models = await Models.start();
  } catch (error) {
    status("");
    fail(`The page could not start (${error.message}). Check that all files of the export are on the server.`);
    return;
  }
  document.title = page.title;
  element("title").textContent = page.title;
  cards = page.models.map((model) => new Card(model, element("card"), changePrecision));
  element("models").replaceChildren(...cards.map((card) => card.root));
  for (const card of cards) await load(card);
}

ready = start();
