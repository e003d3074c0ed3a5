// One participant in a real browser: the published client in headless Chromium.
//
//   node browser_participant.cjs '{"url": "http://127.0.0.1:8080/v2.1/", "task": "titanic", "scheme": "federated",
//                                  "rows": [[[…inputs], [outputs]], …], "epochs": 1, "roundDuration": 1,
//                                  "secure": false, "tfjs": "http://127.0.0.1:8080/tfjs/titanic/model.json"}'
//
// It meets others as participant.cjs does. It prints lines like those of participant.cjs, with weights in base64, and before them {"event": "tfjs", "weights": …}
// for the model that tf.loadLayersModel finds at `tfjs`, where that is given.
'use strict'

const { execFileSync } = require('child_process')
const fs = require('fs')
const path = require('path')
const { chromium } = require('playwright-core')

const options = JSON.parse(process.argv[2])
const say = (event, facts = {}) => process.stdout.write(JSON.stringify({ event, ...facts }) + '\n')
const meet = async (reason) => {
  const told = new Promise((resolve) => process.stdin.once('data', resolve))
  say('meeting', { reason })
  await told
}
const executablePath = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find(fs.existsSync)

async function main () {
  const bundle = path.join(process.cwd(), 'browser_bundle.js')
  if (!fs.existsSync(bundle)) execFileSync('npm', ['run', '--silent', 'bundle'], { stdio: 'inherit' })
  const browser = await chromium.launch({
    executablePath,
    args: [
      '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync',
      // Host candidates as addresses: the other end of a connection may be a Node process that resolves no mDNS names.
      '--disable-features=WebRtcHideLocalIpsWithMdns'
    ]
  })
  try {
    const page = await browser.newPage()
    page.on('console', (message) => console.error('page:', message.text()))
    page.on('pageerror', (error) => console.error('page threw:', String(error)))
    await page.exposeFunction('say', say)
    await page.exposeFunction('meet', meet)
    await page.addScriptTag({ path: bundle })
    await page.evaluate(inPage, options)
  } finally {
    await browser.close()
  }
}

/* global disco, tf, URL, Buffer */
async function inPage (options) {
  const base64 = (weights) => {
    const parts = weights.map((tensor) => tensor.dataSync())
    const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.byteLength, 0))
    let at = 0
    for (const part of parts) {
      bytes.set(new Uint8Array(part.buffer, part.byteOffset, part.byteLength), at)
      at += part.byteLength
    }
    return Buffer.from(bytes).toString('base64')
  }
  await tf.setBackend('cpu')
  if (options.tfjs !== undefined) {
    const model = await tf.loadLayersModel(options.tfjs)
    await window.say('tfjs', { weights: base64(model.getWeights()) })
  }
  const url = new URL(options.url)
  const tasks = await disco.fetchTasks(url)
  await window.say('tasks', { ids: [...tasks.keys()] })
  const task = tasks.get(options.task)
  task.trainingInformation.epochs = options.epochs
  task.trainingInformation.roundDuration = options.roundDuration
  const federated = options.scheme === 'federated'
  const Client = federated
    ? disco.client.federated.Client
    : options.secure ? disco.client.decentralized.SecAgg : disco.client.decentralized.ClearText
  const client = new Client(url, task)
  const atRoundEnd = client.onRoundEndCommunication.bind(client)
  client.onRoundEndCommunication = async (updated, stale, round, informant) => {
    const sent = base64(updated.weights)
    const result = await atRoundEnd(updated, stale, round, informant)
    await window.say('round', {
      number: round,
      serverRound: client.round,
      sentWeights: sent,
      receivedWeights: base64(result.weights),
      peers: client.peers === undefined ? undefined : client.peers.toArray().sort(),
      id: client.ID === undefined ? client.clientID : client.ID
    })
    return result
  }
  if (options.meets) {
    const exchange = client.sendAndReceiveWeights.bind(client)
    client.sendAndReceiveWeights = async (...all) => {
      await window.meet('introduced')
      return await exchange(...all)
    }
  }
  const rows = options.rows.map(([xs, ys]) => ({ xs, ys }))
  const train = await disco.data.TabularData.init(disco.tf.data.array(rows), task, rows.length)
  const scheme = federated ? disco.TrainingSchemes.FEDERATED : disco.TrainingSchemes.DECENTRALIZED
  if (options.meets) await window.meet('loaded')
  await new disco.Disco(task, { client, scheme }).fit({ train })
  await window.say('trained')
  await client.disconnect()
  await window.say('done')
}

main().then(() => process.exit(0), (error) => {
  say('failed', { message: String(error && error.stack ? error.stack : error) })
  process.exit(1)
})
