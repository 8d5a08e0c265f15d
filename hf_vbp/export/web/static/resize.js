// Resize as Pillow does, in Python's image processors. A canvas drops pixels where it makes a picture much smaller,
// which changes the scores of photographs.
//
// The filters are those of Pillow: support, and weight at a distance.
const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
const inside = (x, support, weight) => (Math.abs(x) < support ? weight : 0);
const cubic = (x) => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : ((-0.5 * x + 2.5) * x - 4) * x + 2);

const LANCZOS = { support: 3, weight: (x) => inside(x, 3, sinc(x) * sinc(x / 3)) };
const BILINEAR = { support: 1, weight: (x) => inside(x, 1, 1 - Math.abs(x)) };
const BICUBIC = { support: 2, weight: (x) => inside(x, 2, cubic(Math.abs(x))) };
const BOX = { support: 0.5, weight: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) };
const HAMMING = { support: 1, weight: (x) => inside(x, 1, sinc(x) * (0.54 + 0.46 * Math.cos(Math.PI * x))) };
const FILTERS = {
  1: LANCZOS, 2: BILINEAR, 3: BICUBIC, 4: BOX, 5: HAMMING,
  lanczos: LANCZOS, bilinear: BILINEAR, bicubic: BICUBIC, box: BOX, hamming: HAMMING,
};

// Weights are integers of 22 bits after the point.
const BITS = 22;

/** For each output pixel of one axis: the first input pixel and the integer weights. */
function weightsOf(inputSize, outputSize, filter) {
  const scale = inputSize / outputSize;
  const stretch = Math.max(scale, 1);
  const support = filter.support * stretch;
  return Array.from({ length: outputSize }, (_, index) => {
    const center = (index + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const last = Math.min(inputSize, Math.trunc(center + support + 0.5));
    const weights = Array.from({ length: last - first }, (_, tap) =>
      filter.weight((first + tap - center + 0.5) / stretch));
    const sum = weights.reduce((total, weight) => total + weight, 0);
    const integers = weights.map((weight) => {
      const scaled = (sum ? weight / sum : 0) * (1 << BITS);
      return Math.trunc(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
    });
    return { first, weights: Int32Array.from(integers) };
  });
}

/** Resize one axis. `outer` lines of `inputSize` steps; a step is `stride` apart and holds `stride` values. */
function resizeAxis(data, outer, inputSize, outputSize, stride, filter) {
  const table = weightsOf(inputSize, outputSize, filter);
  const result = new Uint8ClampedArray(outer * outputSize * stride);
  for (let line = 0; line < outer; ++line) {
    for (let index = 0; index < outputSize; ++index) {
      const { first, weights } = table[index];
      const target = (line * outputSize + index) * stride;
      const source = (line * inputSize + first) * stride;
      for (let value = 0; value < stride; ++value) {
        let sum = 1 << (BITS - 1);
        for (let tap = 0; tap < weights.length; ++tap) {
          sum += data[source + tap * stride + value] * weights[tap];
        }
        result[target + value] = sum >> BITS;
      }
    }
  }
  return result;
}

/**
 * Resize a `RawImage`; replaces its method `resize`.
 * @param {number} width The new width.
 * @param {number} height The new height.
 * @param {{resample?: number|string}} options Number or name of Pillow's filter.
 */
async function resize(width, height, { resample = 2 } = {}) {
  width = Math.trunc(width ?? (height / this.height) * this.width);
  height = Math.trunc(height ?? (width / this.width) * this.height);
  const filter = FILTERS[resample];
  if (!filter) {
    throw new Error(`the resampling ${resample} of preprocessor_config.json is not supported`);
  }
  if (width !== this.width) {
    const data = resizeAxis(this.data, this.height, this.width, width, this.channels, filter);
    this._update(data, width, this.height, this.channels);
  }
  if (height !== this.height) {
    const data = resizeAxis(this.data, 1, this.height, height, this.width * this.channels, filter);
    this._update(data, this.width, height, this.channels);
  }
  return this;
}

const canvasCrop = Symbol("center_crop of transformers.js");

/** Crop the middle of a `RawImage`; replaces its method `center_crop`, which interpolates where the rest is odd. */
async function centerCrop(width, height) {
  if (this.width < width || this.height < height) {
    return this[canvasCrop](width, height);
  }
  const left = Math.floor((this.width - width) / 2);
  const top = Math.floor((this.height - height) / 2);
  const row = width * this.channels;
  const data = new Uint8ClampedArray(row * height);
  for (let line = 0; line < height; ++line) {
    const start = ((top + line) * this.width + left) * this.channels;
    data.set(this.data.subarray(start, start + row), line * row);
  }
  return this._update(data, width, height, this.channels);
}

/** Let the image processors of transformers.js resize and crop as those of Python do. */
export function resizeAsPillow(RawImage) {
  RawImage.prototype[canvasCrop] = RawImage.prototype.center_crop;
  RawImage.prototype.center_crop = centerCrop;
  RawImage.prototype.resize = resize;
}
