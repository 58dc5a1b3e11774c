// What the server has, fetched once and kept until there is something newer.

const RUNS_AT_ONCE = 16;
const STEPS_KEPT = 60; // of those fetched one by one

async function answer(path, signal) {
  let response;
  try {
    response = await fetch(path, { signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("TensorBoard does not answer: is it still running?");
  }
  if (response.ok) return response;
  let why = "";
  try {
    why = (await response.json()).error;
  } catch {
    // Not from us: the status says it.
  }
  throw new Error(`TensorBoard answered ${response.status}${why ? `: ${why}` : ""}`);
}

function query(name, values) {
  return values.map((value) => `${name}=${encodeURIComponent(value)}`).join("&");
}

/** One array over the steps. */
export class Series {
  constructor(head, values, content) {
    Object.assign(this, head);
    this.values = values;
    this.content = content;
    this.size = head.shape.reduce((product, side) => product * side, 1);
    this.place = new Map(head.steps.map((step, k) => [step, k]));
  }

  /** Values of the k-th step. */
  at(k) {
    return this.values.subarray(k * this.size, (k + 1) * this.size);
  }

  /** The k with the latest step that is not after `step`; −1 if there is none. */
  before(step) {
    let low = 0;
    let high = this.steps.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.steps[middle] <= step) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }
}

/** Arrays out of the bytes that `data.py` packs. */
export function unpack(buffer, contentOf) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const all = new Float32Array(buffer, 4 + length);
  return header.series.map((head) => {
    const size = head.shape.reduce((product, side) => product * side, head.steps.length);
    return new Series(head, all.subarray(head.offset, head.offset + size), contentOf(head.run, head.tag));
  });
}

const EMPTY = { runs: [], other_runs: 0, contents: [], tensors: {}, scalars: {}, images: {}, problems: [] };

export class Data {
  constructor() {
    this.index = EMPTY;
    this.stamp = "";
    this.kept = new Map(); // "kind run tag" → {stamp, promise}
    this.notes = new Map(); // what was left out while reading, by run and tag
  }

  /** Look what there is; true if something is new. */
  async refresh() {
    const text = await (await answer("index")).text();
    if (text === this.stamp) return false;
    this.stamp = text;
    this.index = JSON.parse(text);
    return true;
  }

  content(run, tag) {
    const entry = this.index.tensors[run]?.[tag];
    return entry && this.index.contents[entry[0]];
  }

  /** Tags of a run whose metadata fit, as {tag, group, content}. */
  find(run, fits) {
    const found = [];
    for (const tag of Object.keys(this.index.tensors[run] ?? {})) {
      const content = this.content(run, tag);
      if (!fits(content)) continue;
      const group = tag.endsWith(`/${content.array}`) ? tag.slice(0, -content.array.length - 1) : tag;
      found.push({ tag, group, content });
    }
    return found;
  }

  /** Whether a run has an array whose metadata fit. */
  some(fits) {
    return this.index.runs.some(({ name }) => this.find(name, fits).length);
  }

  /** Arrays by run and tag; those that a run lacks are absent: `result.get(run)?.[tag]`. */
  async tensors(runs, tags) {
    const stampOf = (run, tag) => this.index.tensors[run]?.[tag]?.slice(1).join(" ");
    const missing = (run, tag) => {
      const stamp = stampOf(run, tag);
      return stamp !== undefined && this.kept.get(`tensor ${run}\n${tag}`)?.stamp !== stamp;
    };
    const due = runs.filter((run) => tags.some((tag) => missing(run, tag)));
    for (let k = 0; k < due.length; k += RUNS_AT_ONCE) {
      const some = due.slice(k, k + RUNS_AT_ONCE);
      const wanted = tags.filter((tag) => some.some((run) => missing(run, tag)));
      const promise = this.read(some, wanted);
      for (const run of some) {
        for (const tag of wanted) {
          const one = promise.then((list) => list.find((s) => s.run === run && s.tag === tag));
          one.catch(() => this.kept.delete(`tensor ${run}\n${tag}`));
          this.kept.set(`tensor ${run}\n${tag}`, { stamp: stampOf(run, tag), promise: one });
        }
      }
    }
    const result = new Map();
    for (const run of runs) {
      const own = {};
      for (const tag of tags) {
        if (stampOf(run, tag) === undefined) continue;
        const series = await this.kept.get(`tensor ${run}\n${tag}`)?.promise;
        if (series?.steps.length) own[tag] = series;
      }
      result.set(run, own);
    }
    return result;
  }

  /** Arrays of one step alone, for those that are too large to hold all of; the signal ends it. */
  async tensorsAt(run, tags, step, signal) {
    const stamps = tags.map((tag) => this.index.tensors[run]?.[tag]?.[2]);
    const key = `step ${run}\n${tags.join("\n")}\n${step} ${stamps.join(" ")}`;
    if (!this.kept.has(key)) {
      const old = [...this.kept.keys()].filter((one) => one.startsWith("step "));
      for (const one of old.slice(0, Math.max(0, old.length - STEPS_KEPT))) this.kept.delete(one);
      const promise = this.read([run], tags, step, signal);
      promise.catch(() => this.kept.delete(key));
      this.kept.set(key, { promise });
    }
    const list = await this.kept.get(key).promise;
    return Object.fromEntries(list.filter((s) => s.steps.length).map((s) => [s.tag, s]));
  }

  async read(runs, tags, step = null, signal = undefined) {
    const parts = [query("run", runs), query("tag", tags)];
    if (step !== null) parts.push(`step=${step}`);
    const response = await answer(`tensors?${parts.join("&")}`, signal);
    const list = unpack(await response.arrayBuffer(), (run, tag) => this.content(run, tag));
    for (const { run, tag, note } of list) {
      if (note) this.notes.set(`${run}\n${tag}`, note);
    }
    return list;
  }

  /** Scalar series by run and tag. */
  async scalars(runs, tags) {
    const key = `scalars ${runs.join("\n")}\n\n${tags.join("\n")}`;
    if (this.kept.get(key)?.stamp !== this.stamp) {
      const promise = (async () => {
        const all = {};
        for (let k = 0; k < runs.length; k += RUNS_AT_ONCE) {
          const some = runs.slice(k, k + RUNS_AT_ONCE);
          const response = await answer(`scalars?${query("run", some)}&${query("tag", tags)}`);
          Object.assign(all, await response.json());
        }
        return all;
      })();
      promise.catch(() => this.kept.delete(key));
      this.kept.set(key, { stamp: this.stamp, promise });
    }
    return this.kept.get(key).promise;
  }

  /** Pictures of one run and tag as {step, urls}. */
  async images(run, tag) {
    const key = `images ${run}\n${tag}`;
    const stamp = this.index.images[run]?.[tag]?.join(" ");
    if (this.kept.get(key)?.stamp !== stamp) {
      const promise = answer(`images?${query("run", [run])}&${query("tag", [tag])}`)
        .then((response) => response.json())
        .then(({ images }) =>
          images.map(({ step, keys }) => ({ step, urls: keys.map((one) => `image?${query("key", [one])}`) })),
        );
      promise.catch(() => this.kept.delete(key));
      this.kept.set(key, { stamp, promise });
    }
    return this.kept.get(key).promise;
  }
}
