// Pushes a decentralized tabular task with the published client: node push_task.cjs URL ID
// Prints {"event": "pushed", "digest": …} or {"event": "failed", "status": …, "body": …}.
'use strict'

const { createHash } = require('crypto')
const disco = require('@epfml/discojs-node')
const { tf } = disco
const [url, id] = process.argv.slice(2)
const say = (event, facts) => process.stdout.write(JSON.stringify({ event, ...facts }) + '\n')

const task = {
  taskID: id,
  displayInformation: { taskTitle: 'Titanic among peers', summary: { preview: 'p', overview: 'o' } },
  trainingInformation: {
    modelID: `${id}-model`,
    epochs: 10,
    roundDuration: 10,
    validationSplit: 0,
    batchSize: 30,
    preprocessingFunctions: [],
    modelCompileData: { optimizer: 'sgd', loss: 'binaryCrossentropy', metrics: ['accuracy'] },
    dataType: 'tabular',
    inputColumns: ['Age', 'SibSp', 'Parch', 'Fare', 'Pclass'],
    outputColumns: ['Survived'],
    scheme: 'Decentralized',
    minimumReadyPeers: 3,
    maxShareValue: 100
  }
}

const model = tf.sequential({
  layers: [
    tf.layers.dense({ inputShape: [5], units: 8, activation: 'relu' }),
    tf.layers.dense({ units: 1, activation: 'sigmoid' })
  ]
})
const hash = createHash('sha256')
for (const tensor of model.getWeights()) hash.update(Buffer.from(tensor.dataSync().buffer))

disco.pushTask(new URL(url), task, model).then(
  () => say('pushed', { digest: hash.digest('hex') }),
  (error) => say('failed', { status: error.response && error.response.status, body: error.response && error.response.data }))
