// Loads LayersModels from folders in TF.js and says what they answer.
//
// Reads from standard input one JSON object per line: {name, folder, inputs: [{shape, dtype, values}]}.
// Writes for each: {name, outputs: [{shape, values}], trained} or {name, error}.

const fs = require('node:fs')
const path = require('node:path')
const readline = require('node:readline')

console.log = () => {} // TF.js greets there
console.warn = () => {}
const tf = require('@tensorflow/tfjs')

function artifacts (folder) {
  const json = JSON.parse(fs.readFileSync(path.join(folder, 'model.json')))
  const [group] = json.weightsManifest
  const bytes = fs.readFileSync(path.join(folder, group.paths[0]))
  return {
    modelTopology: json.modelTopology,
    weightSpecs: group.weights,
    weightData: bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength),
    trainingConfig: json.trainingConfig
  }
}

async function answer ({ name, folder, inputs }) {
  const model = await tf.loadLayersModel(tf.io.fromMemory(artifacts(folder)))
  const tensors = inputs.map(({ shape, dtype, values }) => tf.tensor(values, shape, dtype))
  const answered = [model.predict(tensors)].flat()
  return {
    name,
    outputs: answered.map((tensor) => ({ shape: tensor.shape, values: Array.from(tensor.dataSync()) })),
    trained: model.trainableWeights.reduce((sum, weight) => sum + weight.shape.reduce((a, b) => a * b, 1), 0)
  }
}

async function main () {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const request = JSON.parse(line)
    let said
    try {
      said = await answer(request)
    } catch (error) {
      said = { name: request.name, error: String(error.message) }
    }
    process.stdout.write(JSON.stringify(said) + '\n')
  }
}

main()
