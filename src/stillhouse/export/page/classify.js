// A text classifier in the browser: the student's tokenizer, and its ONNX graph in onnxruntime-web's WebAssembly.
import * as ort from './ort.wasm.min.mjs';
import { Tokenizer } from './tokenizers.min.mjs';

ort.env.wasm.numThreads = 1; // more need headers that plain static servers do not send
ort.env.wasm.wasmPaths = new URL('./', import.meta.url).href;

const read = async (name) => (await fetch(new URL(name, import.meta.url))).json();

export async function load() {
  const [vocabulary, settings, config, facts] = await Promise.all(
    ['tokenizer.json', 'tokenizer_config.json', 'config.json', 'artefact.json'].map(read));
  const tokenizer = new Tokenizer(vocabulary, settings);
  const session = await ort.InferenceSession.create(new URL('model.onnx', import.meta.url).href);

  // Token ids of a text, with those that begin and end one unless they are not wanted.
  const encode = (text, add_special_tokens = true) => Array.from(tokenizer.encode(text, { add_special_tokens }).ids, Number);

  // One number a class, of a text's token ids.
  async function logits(ids) {
    const row = (values) => new ort.Tensor('int64', BigInt64Array.from(values, BigInt), [1, ids.length]);
    const border = ids.indexOf(facts.separator); // a pair's second text begins behind the first separator
    const given = {
      input_ids: row(ids),
      attention_mask: row(ids.map(() => 1)),
      token_type_ids: row(ids.map((_, at) => (border >= 0 && at > border ? 1 : 0))),
    };
    const feeds = Object.fromEntries(session.inputNames.map((name) => [name, given[name]]));
    return Array.from((await session.run(feeds)).logits.data);
  }

  const names = Object.keys(config.id2label).sort((a, b) => a - b).map((at) => config.id2label[at]);

  // Classes with their probabilities, the likeliest first.
  async function classify(text) {
    const scores = await logits(encode(text));
    const top = Math.max(...scores);
    const weights = scores.map((score) => Math.exp(score - top));
    const sum = weights.reduce((a, b) => a + b);
    return names.map((name, at) => ({ name, probability: weights[at] / sum })).sort((a, b) => b.probability - a.probability);
  }

  return { encode, logits, classify, names };
}
