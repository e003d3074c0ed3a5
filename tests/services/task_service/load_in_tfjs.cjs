// Loads models in TF.js and says what it made of them.
//
// Reads from standard input one JSON object per line: {name, topology, specs, weights (base64), training}.
// Writes for each: {name, weights: [{name, shape, trainable}], values (base64), compiled} or {name, error}.
// `weights` may be absent: the model is then built from its topology alone, with weights of its own.

const readline = require('node:readline')

console.log = () => {} // TF.js greets there
const tf = require('@tensorflow/tfjs')

async function load ({ topology, specs, weights, training }) {
  if (weights === undefined) return await tf.models.modelFromJSON(topology)
  const bytes = Buffer.from(weights, 'base64')
  return await tf.loadLayersModel(tf.io.fromMemory({
    modelTopology: topology,
    weightSpecs: specs,
    weightData: bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength),
    trainingConfig: training
  }))
}

async function describe (request) {
  const model = await load(request)
  const trainable = new Set(model.trainableWeights.map((weight) => weight.id))
  const values = model.getWeights().map((tensor) => Buffer.from(tensor.dataSync().slice().buffer))
  const answer = {
    name: request.name,
    weights: model.weights.map((weight) => ({
      name: weight.originalName, shape: weight.shape, trainable: trainable.has(weight.id)
    })),
    values: Buffer.concat(values).toString('base64'),
    compiled: model.optimizer == null ? null : { optimizer: model.optimizer.getClassName(), loss: model.loss }
  }
  model.dispose()
  return answer
}

async function main () {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const request = JSON.parse(line)
    let answer
    try {
      answer = await describe(request)
    } catch (error) {
      answer = { name: request.name, error: String(error.message) }
    }
    process.stdout.write(JSON.stringify(answer) + '\n')
  }
}

main()
