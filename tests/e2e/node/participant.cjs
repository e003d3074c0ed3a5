// One participant: the published Disco client, unmodified, in a process of its own.
//
//   node participant.cjs '{"url": "http://127.0.0.1:8080/", "task": "titanic", "scheme": "federated",
//                          "csv": "/path/rows.csv", "epochs": 1, "roundDuration": 1, "secure": false}'
//
// It prints one JSON object a line on standard output: what happened, with the SHA-256 of its weights
// (concatenated float32, little-endian) wherever they changed. What the client itself says goes to standard error.
// With "meets": true it waits for a line on standard input whenever it has said {"event": "meeting"}: before it trains,
// and each time before it sends weights to its peers (see Meeting in real_clients.py).
// Run it from the folder where the client is installed: the client looks for WebRTC relative to the working directory.
'use strict'

const { createHash } = require('crypto')

const options = JSON.parse(process.argv[2])
const say = (event, facts = {}) => process.stdout.write(JSON.stringify({ event, ...facts }) + '\n')
const meet = async (reason) => {
  const told = new Promise((resolve) => process.stdin.once('data', resolve))
  say('meeting', { reason })
  await told
}
for (const level of ['log', 'debug', 'info']) console[level] = (...words) => console.error(...words)

const disco = require('@epfml/discojs-node')

const bytes = (weights) => Buffer.concat(weights.map((tensor) => {
  const values = tensor.dataSync()
  return Buffer.from(values.buffer, values.byteOffset, values.byteLength)
}))
const digest = (weights) => createHash('sha256').update(bytes(weights)).digest('hex')

async function main () {
  const url = new URL(options.url)
  const tasks = await disco.fetchTasks(url)
  say('tasks', { ids: [...tasks.keys()] })

  const task = tasks.get(options.task)
  // How long this run is; the published task is made for people who have an evening.
  task.trainingInformation.epochs = options.epochs
  task.trainingInformation.roundDuration = options.roundDuration

  const federated = options.scheme === 'federated'
  const Client = federated
    ? disco.client.federated.Client
    : options.secure ? disco.client.decentralized.SecAgg : disco.client.decentralized.ClearText
  const client = new Client(url, task)
  const scheme = federated ? disco.TrainingSchemes.FEDERATED : disco.TrainingSchemes.DECENTRALIZED

  const model = await client.getLatestModel()
  say('model', { digest: digest(model.getWeights()), parameters: model.countParams() })

  // Listen in on what the client does at the end of each of its rounds, changing nothing.
  const atRoundEnd = client.onRoundEndCommunication.bind(client)
  client.onRoundEndCommunication = async (updated, stale, round, informant) => {
    const sent = bytes(updated.weights)
    const result = await atRoundEnd(updated, stale, round, informant)
    say('round', {
      number: round,
      serverRound: client.round,
      sent: createHash('sha256').update(sent).digest('hex'),
      received: digest(result.weights),
      // The weights themselves, for rounds whose mean nobody but the clients computes.
      ...(federated ? {} : { sentWeights: sent.toString('base64'), receivedWeights: bytes(result.weights).toString('base64') }),
      peers: client.peers === undefined ? undefined : client.peers.toArray().sort(),
      id: client.ID === undefined ? client.clientID : client.ID
    })
    return result
  }

  if (options.meets) {
    const exchange = client.sendAndReceiveWeights.bind(client)
    client.sendAndReceiveWeights = async (...all) => {
      await meet('introduced')
      return await exchange(...all)
    }
  }

  const csv = await new disco.node.data.NodeTabularLoader(task, ',').loadAll([options.csv], {
    features: task.trainingInformation.inputColumns,
    labels: task.trainingInformation.outputColumns,
    shuffle: false
  })
  if (options.meets) await meet('loaded')
  const session = new disco.Disco(task, { client, scheme })
  await session.fit(csv)
  say('trained')
  if (options.metadata !== undefined) {
    await client.postMetadata('note', options.metadata)
    const notes = await client.getMetadataMap('note')
    say('metadata', { own: client.clientID, notes: [...notes.entries()] })
  }
  if (options.linger) await new Promise((resolve) => process.stdin.once('data', resolve))
  await client.disconnect()
  say('done')
}

main().then(() => process.exit(0), (error) => {
  say('failed', { message: String(error && error.stack ? error.stack : error) })
  process.exit(1)
})
